#ifndef CALIB_QUANT_DATA_TYPE_H_
#define CALIB_QUANT_DATA_TYPE_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace calib {

// Element type of an observed tensor. Every value of each is a float32 value too, so statistics are those of the
// elements converted to float32, exactly.
enum class DataType : uint8_t { kFloat32, kFloat16, kBfloat16 };

// Bytes of one element.
constexpr size_t ElementSize(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }

// "float32", "float16", "bfloat16".
absl::string_view DataTypeName(DataType type);

// The float32 that a binary16 of these bits equals; NaN stays NaN.
float Float16ToFloat32(uint16_t bits);

// The float32 that a bfloat16 of these bits equals.
float Bfloat16ToFloat32(uint16_t bits);

}  // namespace calib

#endif  // CALIB_QUANT_DATA_TYPE_H_
