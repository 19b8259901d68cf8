#ifndef CALIB_SERVER_EXPORT_QDQ_ONNX_MODEL_H_
#define CALIB_SERVER_EXPORT_QDQ_ONNX_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "onnx/onnx_pb.h"

namespace calib::server {

// Whether a node is an operator of ONNX's own, and of this type.
bool IsOnnxNode(const onnx::NodeProto& node);
bool IsOnnxNode(const onnx::NodeProto& node, absl::string_view op_type);

// A model that can be worked on: it has a graph, an IR version of at least 4 (from which on initializers need not be
// inputs) and one opset of ONNX's own operators. EXPORT_INPUT_INVALID when it is none. Bytes may be anything.
absl::StatusOr<onnx::ModelProto> ParseOnnxModel(absl::string_view bytes);

// The version of ONNX's own operators. REQUIRES: of ParseOnnxModel.
int64_t OpsetOf(const onnx::ModelProto& model);

// Equal models give equal bytes. NOT_EXPORTABLE beyond protobuf's limit of 2 GiB.
absl::StatusOr<std::string> SerializeOnnxModel(const onnx::ModelProto& model);

// The values of a float32 tensor. EXPORT_INPUT_INVALID when they are not in it, or not as many as its dimensions say.
// REQUIRES: data_type is FLOAT.
absl::StatusOr<std::vector<float>> FloatValues(const onnx::TensorProto& tensor);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_ONNX_MODEL_H_
