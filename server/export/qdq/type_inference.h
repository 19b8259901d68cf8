#ifndef CALIB_SERVER_EXPORT_QDQ_TYPE_INFERENCE_H_
#define CALIB_SERVER_EXPORT_QDQ_TYPE_INFERENCE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "onnx/onnx_pb.h"

namespace calib::server {

// float16, bfloat16 or double.
bool IsOtherFloat(int32_t type);

// The element type (onnx.TensorProto.DataType) of an output of a node, by its operator, its attributes, and the types
// of its inputs: those that are not left out, in order, 0 for unknown ones. 0 when these don't tell: a node with
// bodies, one of other operators than ONNX's own, or inputs of an unknown type or of different floating types.
// `output` counts from 0.
int32_t InferElementType(const onnx::NodeProto& node, int output, absl::Span<const int32_t> inputs);

// Whether anything in the model, or in a body in it, says that it is of float16, bfloat16 or double: a declaration, a
// constant, or the type that a node is told to make. Without any, floating values are float32.
bool HoldsOtherFloats(const onnx::ModelProto& model);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_TYPE_INFERENCE_H_
