#include "quant/data_type.h"

#include <bit>

namespace calib {

absl::string_view DataTypeName(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat16:
      return "float16";
    case DataType::kBfloat16:
      return "bfloat16";
  }
  return "unknown";
}

float Float16ToFloat32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // A binary16 subnormal is mantissa * 2^-24, a normal float32. Its leading one becomes the implicit bit.
  const int shift = std::countl_zero(mantissa) - 21;
  return std::bit_cast<float>(sign | static_cast<uint32_t>(113 - shift) << 23 | ((mantissa << shift) & 0x3ff) << 13);
}

float Bfloat16ToFloat32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

}  // namespace calib
