#include "tests/export/onnx_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "onnx/checker.h"
#include "onnx/defs/parser.h"
#include "onnx/shape_inference/implementation.h"

namespace calib::server {

onnx::ModelProto ParseText(absl::string_view graph, int opset) {
  const std::string text = absl::StrCat("<ir_version: 8, opset_import: [\"\" : ", opset, "]>\n", graph);
  onnx::ModelProto model;
  onnx::OnnxParser parser(text.c_str());
  const auto status = parser.Parse(model);
  EXPECT_TRUE(status.IsOK()) << status.ErrorMessage();
  return model;
}

void AddWeight(const std::string& name, std::vector<int64_t> dims, std::vector<float> values, onnx::ModelProto* model) {
  onnx::TensorProto* const tensor = model->mutable_graph()->add_initializer();
  tensor->set_name(name);
  tensor->set_data_type(onnx::TensorProto::FLOAT);
  tensor->mutable_dims()->Add(dims.begin(), dims.end());
  tensor->set_raw_data(std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
}

onnx::ModelProto SmallNetwork(int opset) {
  onnx::ModelProto model = ParseText(R"(
      network (float[N, 1, 3, 3] x) => (float[N, 2] y) {
        conv = Conv(x, conv_w, conv_b)
        relu = Relu(conv)
        flat = Flatten(relu)
        fc = Gemm<transB = 1>(flat, fc_w, fc_b)
        y = MatMul(fc, proj)
      })",
                                     opset);
  std::vector<float> conv(12), fc(48), proj(8);
  for (size_t i = 0; i < conv.size(); ++i) {
    const size_t channel = i / 4;
    conv[i] = std::sin(1.F + static_cast<float>(i)) * static_cast<float>(channel + 1);
  }
  for (size_t i = 0; i < fc.size(); ++i) {
    const size_t channel = i / 12;
    fc[i] = std::cos(static_cast<float>(i)) / static_cast<float>(channel + 1);
  }
  for (size_t i = 0; i < proj.size(); ++i) proj[i] = static_cast<float>(i) - 3.5F;
  AddWeight("conv_w", {3, 1, 2, 2}, conv, &model);
  AddWeight("conv_b", {3}, {0.1F, -0.2F, 0.3F}, &model);
  AddWeight("fc_w", {4, 12}, fc, &model);
  AddWeight("proj", {4, 2}, proj, &model);
  AddWeight("fc_b", {4}, {1, 2, 3, 4}, &model);
  return model;
}

QdqTensor Activation(const std::string& name) {
  QdqTensor tensor{.name = name};
  tensor.qparams.set_layer(name);
  tensor.qparams.mutable_spec()->set_type(v1::QUANT_TYPE_UINT8);
  tensor.qparams.mutable_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  tensor.qparams.add_scale(0.05F);
  tensor.qparams.add_zero_point(128);
  tensor.qparams.set_qmin(0);
  tensor.qparams.set_qmax(255);
  return tensor;
}

QdqTensor SymmetricWeight(const std::string& name, const std::vector<float>& scale, std::optional<int> axis) {
  QdqTensor tensor{.name = name, .weight = true};
  tensor.qparams.set_layer(name);
  tensor.qparams.mutable_spec()->set_type(v1::QUANT_TYPE_INT8);
  for (const float channel : scale) {
    tensor.qparams.add_scale(channel);
    tensor.qparams.add_zero_point(0);
  }
  tensor.qparams.set_qmin(-127);
  tensor.qparams.set_qmax(127);
  if (axis.has_value()) tensor.qparams.set_channel_axis(*axis);
  return tensor;
}

std::string CheckerComplaint(onnx::ModelProto model) {
  try {
    onnx::checker::check_model(model);
    onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(),
                                       onnx::ShapeInferenceOptions(/*check_type_val=*/true, /*strict_mode_val=*/1));
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

onnx::ModelProto ParseChecked(const std::string& bytes) {
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(bytes));
  EXPECT_EQ(CheckerComplaint(model), "");
  return model;
}

const onnx::NodeProto* ProducerOf(const onnx::ModelProto& model, absl::string_view value) {
  for (const onnx::NodeProto& node : model.graph().node()) {
    if (std::find(node.output().begin(), node.output().end(), value) != node.output().end()) return &node;
  }
  return nullptr;
}

const onnx::TensorProto* InitializerOf(const onnx::ModelProto& model, absl::string_view name) {
  for (const onnx::TensorProto& tensor : model.graph().initializer()) {
    if (tensor.name() == name) return &tensor;
  }
  return nullptr;
}

std::vector<std::string> Nodes(const onnx::GraphProto& graph) {
  std::vector<std::string> lines;
  for (const onnx::NodeProto& node : graph.node()) {
    lines.push_back(absl::StrCat(node.op_type(), "(", absl::StrJoin(node.input(), ", "), ") -> ",
                                 absl::StrJoin(node.output(), ", ")));
  }
  return lines;
}

}  // namespace calib::server
