#include "quant/quant_type.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace calib {
namespace {

// The first kCount numbers of an FP8 format with this many bits of mantissa, whose least normal number is `normal`.
template <size_t kCount>
constexpr std::array<double, kCount> MakeNumbers(size_t mantissa_bits, double normal) {
  std::array<double, kCount> numbers{};
  const size_t mantissas = size_t{1} << mantissa_bits;
  for (size_t code = 0; code < kCount; ++code) {
    const size_t exponent = code >> mantissa_bits, mantissa = code % mantissas;
    double step = normal / static_cast<double>(mantissas);
    for (size_t i = 1; i < exponent; ++i) step *= 2;
    numbers[code] = static_cast<double>(mantissa + (exponent > 0 ? mantissas : 0)) * step;
  }
  return numbers;
}

// 15 binades above the subnormals, the last without its last number, which is NaN.
constexpr auto kE4M3 = MakeNumbers<127>(3, 0x1p-6);
// 30 binades above the subnormals; the 31st holds the infinity and NaN.
constexpr auto kE5M2 = MakeNumbers<124>(2, 0x1p-14);
static_assert(kE4M3.back() == 448 && kE5M2.back() == 57344);

constexpr QuantType kOthers[] = {
    {CodeKind::kFloat8E4M3, 8, true}, {CodeKind::kFloat8E5M2, 8, true}, {CodeKind::kAuto8, 8, true}};

}  // namespace

absl::Span<const double> Float8Numbers(CodeKind kind) {
  return kind == CodeKind::kFloat8E4M3 ? absl::MakeConstSpan(kE4M3) : absl::MakeConstSpan(kE5M2);
}

std::string QuantType::Name() const {
  switch (kind) {
    case CodeKind::kFloat8E4M3:
      return "fp8_e4m3";
    case CodeKind::kFloat8E5M2:
      return "fp8_e5m2";
    case CodeKind::kAuto8:
      return "auto8";
    case CodeKind::kInteger:
      break;
  }
  return absl::StrCat(is_signed ? "int" : "uint", bits);
}

int64_t QuantType::qmin() const {
  if (IsFloat8(kind)) return -qmax();
  return is_signed && bits > 1 ? -(int64_t{1} << (bits - 1)) : 0;
}

int64_t QuantType::qmax() const {
  if (IsFloat8(kind)) return static_cast<int64_t>(Float8Numbers(kind).back());
  return qmin() + (int64_t{1} << bits) - 1;
}

absl::StatusOr<QuantType> ParseQuantType(absl::string_view name) {
  const auto other = std::find_if(std::begin(kOthers), std::end(kOthers),
                                  [&](const QuantType& candidate) { return candidate.Name() == name; });
  if (other != std::end(kOthers)) return *other;
  QuantType type;
  absl::string_view digits = name;
  type.is_signed = !absl::ConsumePrefix(&digits, "u");
  // Comparing with Name() refuses the blanks, signs and leading zeros that SimpleAtoi accepts.
  if (absl::ConsumePrefix(&digits, "int") && absl::SimpleAtoi(digits, &type.bits) && type.bits >= 1 &&
      type.bits <= QuantType::kMostBits && name == type.Name()) {
    return type;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown quantized type \"", name,
                                                 "\"; use int1 to int32, uint1 to uint32, fp8_e4m3, fp8_e5m2 or auto8 "
                                                 "(uint8 without negative values, else int8)"));
}

}  // namespace calib
