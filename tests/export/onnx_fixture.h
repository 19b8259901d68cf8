#ifndef CALIB_TESTS_EXPORT_ONNX_FIXTURE_H_
#define CALIB_TESTS_EXPORT_ONNX_FIXTURE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "onnx/onnx_pb.h"
#include "server/export/qdq/qdq_model.h"

namespace calib::server {

// The model that ONNX's textual form describes: IR version 8, this opset, and the graph.
onnx::ModelProto ParseText(absl::string_view graph, int opset = 13);
// Adds a float32 initializer.
void AddWeight(const std::string& name, std::vector<int64_t> dims, std::vector<float> values, onnx::ModelProto* model);

// conv (3 channels) -> relu -> flatten -> gemm (transposed) -> matmul, with weights conv_w [3, 1, 2, 2], fc_w
// [4, 12], proj [4, 2]; values x, conv, relu, flat, fc, y.
onnx::ModelProto SmallNetwork(int opset = 13);

// Per-tensor parameters: uint8 with zero point 128 and scale 0.05; or int8 with zero point 0.
QdqTensor Activation(const std::string& name);
QdqTensor SymmetricWeight(const std::string& name, const std::vector<float>& scale, std::optional<int> axis);

// What ONNX's checker and strict shape inference say; empty when they accept it.
std::string CheckerComplaint(onnx::ModelProto model);
// The parsed bytes. Fails the test when they are no model, or the checker refuses it.
onnx::ModelProto ParseChecked(const std::string& bytes);

// The node that makes a value, or the initializer of a name; null without one. Of the main graph.
const onnx::NodeProto* ProducerOf(const onnx::ModelProto& model, absl::string_view value);
const onnx::TensorProto* InitializerOf(const onnx::ModelProto& model, absl::string_view name);
// "op(input, ...) -> output, ..." of every node of a graph.
std::vector<std::string> Nodes(const onnx::GraphProto& graph);

}  // namespace calib::server

#endif  // CALIB_TESTS_EXPORT_ONNX_FIXTURE_H_
