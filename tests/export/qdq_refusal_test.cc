#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/substitute.h"
#include "proto/codec/error.h"
#include "server/export/qdq/qdq_model.h"
#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status Refusal(const onnx::ModelProto& model, const std::vector<QdqTensor>& tensors,
                     const QdqOptions& options = {.activations_only = true}) {
  return MakeQdqModel(model.SerializeAsString(), tensors, options).status();
}

#define EXPECT_REFUSED(status, reason, text)                      \
  do {                                                            \
    const absl::Status refused = (status);                        \
    EXPECT_EQ(GetReason(refused), v1::ERROR_REASON_##reason);     \
    EXPECT_THAT(std::string(refused.message()), HasSubstr(text)); \
  } while (false)

TEST(QdqRefusalTest, ATensorThatTheModelDoesNotHave) {
  QdqTensor tensor = Activation("rellu");
  tensor.qparams.set_layer("model.act");
  const absl::Status status = Refusal(SmallNetwork(), {tensor});
  EXPECT_EQ(status.message(),
            "tensor \"rellu\" (layer \"model.act\"): the model's main graph has no tensor of this name; is it "
            "\"relu\"?");
  EXPECT_EQ(GetErrorInfo(status)->metadata().at("layer"), "model.act");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {Activation("zzzz")}), NOT_EXPORTABLE, "that it has in the model");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {SymmetricWeight("CONV.W", {1}, {})}, {}), NOT_EXPORTABLE,
                 "is it \"conv_w\"?");
}

TEST(QdqRefusalTest, ATensorOfABody) {
  const onnx::ModelProto model = ParseText(R"(
      network (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = a () => (float[2] t) { t = Exp(x) }, else_branch = b () => (float[2] e) { e = Neg(x) }>
      })");
  EXPECT_REFUSED(Refusal(model, {Activation("t")}), NOT_EXPORTABLE, "main graph");
}

TEST(QdqRefusalTest, ActivationsAndWeightsMistakenForEachOther) {
  EXPECT_REFUSED(Refusal(SmallNetwork(), {Activation("conv_w")}), NOT_EXPORTABLE, "observe it as a weight");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {SymmetricWeight("relu", {1}, {})}, {}), NOT_EXPORTABLE, "an activation");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {SymmetricWeight("conv_b", {1}, {})}, {}), NOT_EXPORTABLE,
                 "reads it as a weight");
}

TEST(QdqRefusalTest, TwoLayersOfOneName) {
  QdqTensor first = Activation("relu"), second = Activation("relu");
  first.qparams.set_layer("a");
  second.qparams.set_layer("b");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {first, second}), NOT_EXPORTABLE, "\"relu\"");
}

TEST(QdqRefusalTest, WhatIsQuantizedAlready) {
  const onnx::ModelProto model = ParseText(R"(
      network (float[2] x, float s) => (float[2] y) {
        q = QuantizeLinear(x, s)
        d = DequantizeLinear(q, s)
        y = Relu(d)
      })");
  for (const char* const name : {"x", "q", "d"}) {
    EXPECT_REFUSED(Refusal(model, {Activation(name)}), NOT_EXPORTABLE, "quantized in the model already");
  }
  EXPECT_EQ(Refusal(model, {Activation("y")}), absl::OkStatus());
}

TEST(QdqRefusalTest, WhatIsNotFloat32) {
  onnx::ModelProto model = ParseText(R"(
      network (int64[2] i, float16[2] h) => (float16[2] y, int64[2] k) {
        y = Relu(h)
        k = Identity(i)
      })");
  onnx::ValueInfoProto* const sequence = model.mutable_graph()->add_input();
  sequence->set_name("s");
  sequence->mutable_type()->mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type();
  EXPECT_REFUSED(Refusal(model, {Activation("i")}), NOT_EXPORTABLE,
                 "INT64, but only float32 can be quantized; leave this layer out");
  EXPECT_REFUSED(Refusal(model, {Activation("y")}), NOT_EXPORTABLE,
                 "FLOAT16, but only float32 can be quantized; convert the model to float32, or leave this layer out");
  EXPECT_REFUSED(Refusal(model, {Activation("s")}), NOT_EXPORTABLE, "no tensor");
}

TEST(QdqRefusalTest, WhatIsNotFloat32WithoutADeclaration) {
  const onnx::ModelProto model = ParseText(R"(
      network (float[2, 2] x) => (float[2, 2] y, int64[2] k) {
        half = Cast<to = 10>(x)
        product = MatMul(half, half)
        y = Cast<to = 1>(product)
        relu = Relu(x)
        shape = Shape(relu)
        k = Identity(shape)
      })");
  for (const char* const name : {"half", "product"}) {
    EXPECT_REFUSED(Refusal(model, {Activation(name)}), NOT_EXPORTABLE, "FLOAT16");
  }
  EXPECT_REFUSED(Refusal(model, {Activation("shape")}), NOT_EXPORTABLE, "INT64");
  EXPECT_EQ(Refusal(model, {Activation("x"), Activation("y"), Activation("relu")}), absl::OkStatus());
}

TEST(QdqRefusalTest, WhatIsOfAnUnknownTypeAmongOtherFloats) {
  constexpr absl::string_view kText = R"(
      network (float[2] x, bool c) => (float[2] y) {
        choice = If(c) <
          then_branch = a () => (t) { h = Cast<to = $0>(x) t = Cast<to = 1>(h) },
          else_branch = b () => (e) { e = Neg(x) }
        >
        y = Relu(choice)
      })";
  // Of float32, of float16, of double.
  EXPECT_EQ(Refusal(ParseText(absl::Substitute(kText, 1)), {Activation("choice")}), absl::OkStatus());
  for (const int type : {10, 11}) {
    const onnx::ModelProto model = ParseText(absl::Substitute(kText, type));
    EXPECT_REFUSED(Refusal(model, {Activation("choice")}), NOT_EXPORTABLE,
                   "declare the types with onnx.shape_inference.infer_shapes, or leave this layer out");
    EXPECT_EQ(Refusal(model, {Activation("x"), Activation("y")}), absl::OkStatus());
  }
}

TEST(QdqRefusalTest, OpsetsThatAreTooLow) {
  EXPECT_REFUSED(Refusal(SmallNetwork(9), {Activation("x")}), NOT_EXPORTABLE,
                 "UINT8 needs opset 10, but the model has opset 9");
  QdqTensor tensor = Activation("x");
  tensor.qparams.set_channel_axis(1);
  EXPECT_REFUSED(Refusal(SmallNetwork(12), {tensor}), NOT_EXPORTABLE, "one scale a channel needs opset 13");
  EXPECT_REFUSED(Refusal(SmallNetwork(12), {}, {}), NOT_EXPORTABLE, "weight \"conv_w\": one scale a channel");
  tensor = Activation("x");
  tensor.qparams.mutable_spec()->set_type(v1::QUANT_TYPE_UINT16);
  EXPECT_REFUSED(Refusal(SmallNetwork(17), {tensor}), NOT_EXPORTABLE,
                 "UINT16 needs opset 21, but the model has opset 17");
  tensor.qparams.mutable_spec()->set_type(v1::QUANT_TYPE_UINT12);
  EXPECT_REFUSED(Refusal(SmallNetwork(17), {tensor}), NOT_EXPORTABLE, "uint12");
}

TEST(QdqRefusalTest, ChannelsThatDoNotFit) {
  QdqTensor tensor = Activation("x");
  tensor.qparams.set_channel_axis(2);
  EXPECT_REFUSED(
      Refusal(SmallNetwork(), {tensor}), NOT_EXPORTABLE,
      "there are 1 scales, for channels along axis 2, but in the model axis 2 has size 3; ask for one scale a tensor, "
      "or observe it along axis 1, which has 1");
  tensor.qparams.set_channel_axis(4);
  EXPECT_REFUSED(Refusal(SmallNetwork(), {tensor}), NOT_EXPORTABLE, "it has 4 axes");
  tensor.qparams.set_channel_axis(std::numeric_limits<int32_t>::min());
  EXPECT_REFUSED(Refusal(SmallNetwork(), {tensor}), NOT_EXPORTABLE, "it has 4 axes");
  EXPECT_REFUSED(Refusal(SmallNetwork(), {SymmetricWeight("proj", {1, 1, 1}, 1)}, {}), NOT_EXPORTABLE,
                 "axis 1 has size 2; ask for one scale a tensor, or observe it along the axis that its channels have");
  const onnx::ModelProto stack = ParseText(R"(
      network (float[4, 2] x) => (float[1, 4, 2] y) {
        w = Constant<value = float[1, 2, 2] {1, 2, 3, 4}>()
        y = MatMul(x, w)
      })");
  EXPECT_REFUSED(Refusal(stack, {SymmetricWeight("w", {1, 1}, 2)}, {}), NOT_EXPORTABLE,
                 "along axis 2, but in the model its readers take one scale alone; ask for one scale a tensor");
  // A PyTorch Linear's weight, transposed for MatMul.
  EXPECT_REFUSED(Refusal(SmallNetwork(), {SymmetricWeight("proj", {1, 1, 1, 1}, 0)}, {}), NOT_EXPORTABLE,
                 "along axis 0, but in the model its output channels lie along axis 1");
}

TEST(QdqRefusalTest, WeightsThatCannotBeReplaced) {
  onnx::ModelProto output = SmallNetwork();
  output.mutable_graph()->add_output()->set_name("proj");
  EXPECT_REFUSED(Refusal(output, {}, {}), EXPORT_INPUT_INVALID, "weight \"proj\" is also an output");
  EXPECT_REFUSED(Refusal(output, {SymmetricWeight("proj", {1}, {})}, {}), NOT_EXPORTABLE, "gives it out");

  onnx::ModelProto external = SmallNetwork();
  external.mutable_graph()->mutable_initializer(3)->set_data_location(onnx::TensorProto::EXTERNAL);
  EXPECT_REFUSED(Refusal(external, {}, {}), EXPORT_INPUT_INVALID, "weight \"proj\" is in an external file; observe it");

  onnx::ModelProto half = SmallNetwork();
  half.mutable_graph()->mutable_initializer(3)->set_data_type(onnx::TensorProto::FLOAT16);
  EXPECT_REFUSED(Refusal(half, {SymmetricWeight("proj", {1}, {})}, {}), NOT_EXPORTABLE, "FLOAT16");
}

TEST(QdqRefusalTest, WeightsThatAreDamaged) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    onnx::ModelProto model = SmallNetwork();
    model.mutable_graph()->mutable_initializer()->DeleteSubrange(3, 1);
    AddWeight("proj", {4, 2}, {1, 2, 3, value, 5, 6, 7, 8}, &model);
    EXPECT_REFUSED(Refusal(model, {}, {}), EXPORT_INPUT_INVALID, "NaN or infinity");
    EXPECT_REFUSED(Refusal(model, {SymmetricWeight("proj", {1}, {})}, {}), EXPORT_INPUT_INVALID, "NaN or infinity");
  }
  onnx::ModelProto model = SmallNetwork();
  onnx::TensorProto& proj = *model.mutable_graph()->mutable_initializer(3);
  proj.mutable_raw_data()->pop_back();
  EXPECT_REFUSED(Refusal(model, {}, {}), EXPORT_INPUT_INVALID, "should have 8 float32 values");
  proj.set_dims(0, -4);
  EXPECT_REFUSED(Refusal(model, {}, {}), EXPORT_INPUT_INVALID, "impossible dimensions");
  proj.set_dims(0, std::numeric_limits<int64_t>::max());
  EXPECT_REFUSED(Refusal(model, {}, {}), EXPORT_INPUT_INVALID, "impossible dimensions");
}

TEST(QdqRefusalTest, SpecsThatContradictThemselves) {
  QdqOptions options;
  options.weight_method = {.method = CalibrationMethod::kPercentile, .percentile = 200};
  EXPECT_REFUSED(Refusal(SmallNetwork(), {}, options), SPEC_INVALID, "percentile");
  options.weight_method = {};
  options.weight_spec = {.type = {.bits = 40}};
  EXPECT_EQ(GetReason(Refusal(SmallNetwork(), {}, options)), v1::ERROR_REASON_SPEC_INVALID);
  options.weight_spec = {.type = {.bits = 3}};
  EXPECT_REFUSED(Refusal(SmallNetwork(), {}, options), NOT_EXPORTABLE,
                 "weight \"conv_w\": ONNX has no quantized type int3");
}

TEST(QdqRefusalTest, TensorsCanBeLeftOut) {
  const QdqOptions options{.skip_unexportable = true};
  QdqTensor wide = Activation("relu");
  wide.qparams.mutable_spec()->set_type(v1::QUANT_TYPE_INT12);
  const absl::StatusOr<QdqModel> made = MakeQdqModel(
      SmallNetwork().SerializeAsString(),
      std::vector<QdqTensor>{Activation("x"), Activation("unknown"), wide, SymmetricWeight("proj", {1, 1, 1}, 1)},
      options);
  ASSERT_TRUE(made.ok()) << made.status();
  ASSERT_EQ(made->omitted.size(), 3U);
  EXPECT_EQ(made->omitted[0].name, "proj");
  EXPECT_EQ(made->omitted[1].name, "relu");
  EXPECT_EQ(made->omitted[2].name, "unknown");
  EXPECT_THAT(std::string(made->omitted[1].reason.message()), AllOf(HasSubstr("\"relu\""), HasSubstr("int12")));
  const onnx::ModelProto model = ParseChecked(made->bytes);
  EXPECT_NE(InitializerOf(model, "x_scale"), nullptr);
  EXPECT_EQ(InitializerOf(model, "relu_scale"), nullptr);
  EXPECT_NE(InitializerOf(model, "proj"), nullptr);
  EXPECT_THAT(made->from_model, ElementsAre("conv_w", "fc_w"));
}

}  // namespace
}  // namespace calib::server
