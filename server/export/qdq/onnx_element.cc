#include "server/export/qdq/onnx_element.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/types/span.h"

namespace calib::server {
namespace {

constexpr OnnxElement kElements[] = {
    {{CodeKind::kInteger, 8, true}, "INT8", 3, 10, 3},
    {{CodeKind::kInteger, 8, false}, "UINT8", 2, 10, 3},
    {{CodeKind::kInteger, 16, true}, "INT16", 5, 21, 3},
    {{CodeKind::kInteger, 16, false}, "UINT16", 4, 21, 3},
    {{CodeKind::kInteger, 4, true}, "INT4", 22, 21, 10},
    {{CodeKind::kInteger, 4, false}, "UINT4", 21, 21, 10},
    {{CodeKind::kFloat8E4M3, 8, true}, "FLOAT8E4M3FN", 17, 19, 9},
    {{CodeKind::kFloat8E5M2, 8, true}, "FLOAT8E5M2", 19, 19, 9},
};

}  // namespace

const OnnxElement* FindOnnxElement(const QuantType& type) {
  const auto* const found = std::find_if(std::begin(kElements), std::end(kElements),
                                         [&](const OnnxElement& element) { return element.type == type; });
  return found == std::end(kElements) ? nullptr : found;
}

size_t RawDataSize(const OnnxElement& element, size_t count) {
  return element.type.bits == 4 ? count / 2 + count % 2 : count * static_cast<size_t>(element.type.bits / 8);
}

void PutCode(const OnnxElement& element, size_t index, int64_t code, std::string* raw_data) {
  const auto bits = static_cast<uint64_t>(code);
  switch (element.type.bits) {
    case 4: {
      char& byte = (*raw_data)[index / 2];
      byte = static_cast<char>(static_cast<uint8_t>(byte) | ((bits & 0xf) << (index % 2 * 4)));
      return;
    }
    case 8:
      (*raw_data)[index] = static_cast<char>(bits & 0xff);
      return;
    default:
      (*raw_data)[2 * index] = static_cast<char>(bits & 0xff);
      (*raw_data)[2 * index + 1] = static_cast<char>((bits >> 8) & 0xff);
  }
}

uint8_t Float8Code(CodeKind kind, float value) {
  const absl::Span<const double> numbers = Float8Numbers(kind);
  const double magnitude = std::min(std::abs(static_cast<double>(value)), numbers.back());
  auto code = static_cast<size_t>(std::lower_bound(numbers.begin(), numbers.end(), magnitude) - numbers.begin());
  if (code > 0) {
    const double above = numbers[code] - magnitude, below = magnitude - numbers[code - 1];
    if (below < above || (below == above && code % 2 == 1)) --code;
  }
  return static_cast<uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

}  // namespace calib::server
