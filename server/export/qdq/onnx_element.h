#ifndef CALIB_SERVER_EXPORT_QDQ_ONNX_ELEMENT_H_
#define CALIB_SERVER_EXPORT_QDQ_ONNX_ELEMENT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "quant/quant_type.h"

namespace calib::server {

// An element type of ONNX tensors that QuantizeLinear makes.
struct OnnxElement {
  QuantType type;
  absl::string_view name;  // of onnx.TensorProto.DataType, such as "INT8"
  int32_t data_type;       // its number; Debian's schema, 1.12, has them up to 16
  int opset;               // the first whose QuantizeLinear makes it
  int ir_version;          // the first that has it
};

// First opset whose QuantizeLinear takes a scale a channel.
inline constexpr int kPerChannelOpset = 13;

// The element type for codes of this type; null when ONNX has none. Static.
const OnnxElement* FindOnnxElement(const QuantType& type);

// Bytes that `count` codes take in TensorProto.raw_data.
size_t RawDataSize(const OnnxElement& element, size_t count);
// Writes the code of element `index` into raw data that begins as zeros: little-endian, four-bit codes two a byte,
// the lower half first. REQUIRES: `code` is one of an integer type's.
void PutCode(const OnnxElement& element, size_t index, int64_t code, std::string* raw_data);

// The FP8 code of the number nearest to `value`, of two the even code; saturates. REQUIRES: IsFloat8(kind), not NaN.
uint8_t Float8Code(CodeKind kind, float value);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_ONNX_ELEMENT_H_
