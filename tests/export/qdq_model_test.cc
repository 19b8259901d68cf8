#include "server/export/qdq/qdq_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

QdqOptions ActivationsOnly() { return {.activations_only = true}; }

onnx::ModelProto Quantized(const onnx::ModelProto& model, const std::vector<QdqTensor>& tensors,
                           const QdqOptions& options = ActivationsOnly()) {
  const absl::StatusOr<QdqModel> made = MakeQdqModel(model.SerializeAsString(), tensors, options);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? ParseChecked(made->bytes) : onnx::ModelProto();
}

TEST(QdqModelTest, ActivationsAreFollowedByQuantizeAndDequantize) {
  const onnx::ModelProto made = Quantized(SmallNetwork(), {Activation("x"), Activation("relu")});
  EXPECT_THAT(
      Nodes(made.graph()),
      ElementsAre("QuantizeLinear(x, x_scale, x_zero_point) -> x_QuantizeLinear_Output",
                  "DequantizeLinear(x_QuantizeLinear_Output, x_scale, x_zero_point) -> x_DequantizeLinear_Output",
                  "Conv(x_DequantizeLinear_Output, conv_w, conv_b) -> conv", "Relu(conv) -> relu",
                  "QuantizeLinear(relu, relu_scale, relu_zero_point) -> relu_QuantizeLinear_Output",
                  "DequantizeLinear(relu_QuantizeLinear_Output, relu_scale, relu_zero_point) -> "
                  "relu_DequantizeLinear_Output",
                  "Flatten(relu_DequantizeLinear_Output) -> flat", "Gemm(flat, fc_w, fc_b) -> fc",
                  "MatMul(fc, proj) -> y"));
  EXPECT_EQ(made.graph().node(0).name(), "x_QuantizeLinear");
  EXPECT_THAT(made.graph().node(0).attribute(), IsEmpty());
  const onnx::TensorProto& scale = *InitializerOf(made, "x_scale");
  EXPECT_EQ(scale.dims_size(), 0);
  EXPECT_THAT(scale.float_data(), ElementsAre(0.05F));
  const onnx::TensorProto& zero_point = *InitializerOf(made, "x_zero_point");
  EXPECT_EQ(zero_point.data_type(), onnx::TensorProto::UINT8);
  EXPECT_EQ(zero_point.raw_data(), "\x80");
  EXPECT_EQ(made.graph().input(0).name(), "x");
}

TEST(QdqModelTest, AGraphOutputKeepsItsName) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
        y = Relu(x)
        z = Exp(y)
      })");
  const onnx::ModelProto made = Quantized(model, {Activation("y")});
  EXPECT_THAT(Nodes(made.graph()),
              ElementsAre("Relu(x) -> y_QuantizeLinear_Input",
                          "QuantizeLinear(y_QuantizeLinear_Input, y_scale, y_zero_point) -> y_QuantizeLinear_Output",
                          "DequantizeLinear(y_QuantizeLinear_Output, y_scale, y_zero_point) -> y", "Exp(y) -> z"));
}

TEST(QdqModelTest, AnInputThatIsAnOutputTooIsGivenOutAsItIs) {
  onnx::ModelProto model = ParseText("network (float[2] x) => (float[2] y, float[2] x) { y = Relu(x) }");
  const onnx::ModelProto made = Quantized(model, {Activation("x")});
  EXPECT_EQ(ProducerOf(made, "y")->input(0), "x_DequantizeLinear_Output");
  EXPECT_EQ(made.graph().output(1).name(), "x");
  EXPECT_EQ(ProducerOf(made, "x"), nullptr);
}

TEST(QdqModelTest, AllReadersAreRewiredAlsoTwoInputsOfOneNode) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 2] x) => (float[2, 2] y) {
        a = Relu(x)
        b = MatMul(a, a)
        y = Add(a, b)
      })");
  const onnx::ModelProto made = Quantized(model, {Activation("a"), Activation("b")});
  EXPECT_THAT(Nodes(made.graph()), IsSupersetOf({"MatMul(a_DequantizeLinear_Output, a_DequantizeLinear_Output) -> b",
                                                 "Add(a_DequantizeLinear_Output, b_DequantizeLinear_Output) -> y"}));
}

TEST(QdqModelTest, BodiesReadTheDequantizedValueUnlessTheyDefineTheName) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2] x, bool c) => (float[2] y, float[2] z) {
        a = Relu(x)
        y = If(c) <
          then_branch = captures () => (float[2] t) { t = Exp(a) },
          else_branch = nested () => (float[2] e) {
            e = If(c) <
              then_branch = inner () => (float[2] t2) { t2 = Neg(a) },
              else_branch = shadows () => (float[2] a) { a = Identity(x) }
            >
          }
        >
        z = Identity(a)
      })");
  QdqOptions options = ActivationsOnly();
  const absl::StatusOr<QdqModel> result =
      MakeQdqModel(model.SerializeAsString(), std::vector<QdqTensor>{Activation("a"), Activation("x")}, options);
  ASSERT_TRUE(result.ok()) << result.status();
  onnx::ModelProto made;
  ASSERT_TRUE(made.ParseFromString(result->bytes));
  const onnx::NodeProto& branch = *ProducerOf(made, "y");
  EXPECT_EQ(branch.input(0), "c");
  EXPECT_THAT(Nodes(branch.attribute(0).g()), ElementsAre("Exp(a_DequantizeLinear_Output) -> t"));
  const onnx::NodeProto& nested = branch.attribute(1).g().node(0);
  EXPECT_THAT(Nodes(nested.attribute(0).g()), ElementsAre("Neg(a_DequantizeLinear_Output) -> t2"));
  EXPECT_THAT(Nodes(nested.attribute(1).g()), ElementsAre("Identity(x_DequantizeLinear_Output) -> a"));
  EXPECT_EQ(nested.attribute(1).g().output(0).name(), "a");
  EXPECT_EQ(ProducerOf(made, "z")->input(0), "a_DequantizeLinear_Output");
}

TEST(QdqModelTest, ABodyThatOnlyGivesOutACapturedValueGivesOutTheDequantizedOne) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2] x, bool c) => (float[2] y) {
        a = Relu(x)
        y = If(c) <
          then_branch = exp () => (float[2] t) { t = Exp(x) },
          else_branch = same () => (float[2] a) { }
        >
      })");
  const absl::StatusOr<QdqModel> result =
      MakeQdqModel(model.SerializeAsString(), std::vector<QdqTensor>{Activation("a")}, ActivationsOnly());
  ASSERT_TRUE(result.ok()) << result.status();
  onnx::ModelProto made;
  ASSERT_TRUE(made.ParseFromString(result->bytes));
  EXPECT_EQ(ProducerOf(made, "y")->attribute(1).g().output(0).name(), "a_DequantizeLinear_Output");
}

TEST(QdqModelTest, NamesThatAreTakenGetANumber) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2] a, float[2] a_scale) => (float[2] y) {
        a_QuantizeLinear_Output = Relu(a_scale)
        a_QuantizeLinear_Output_1 = Add(a, a_QuantizeLinear_Output)
        y = Exp(a_QuantizeLinear_Output_1)
      })");
  const onnx::ModelProto made = Quantized(model, {Activation("a"), Activation("a_scale")});
  EXPECT_THAT(Nodes(made.graph()),
              IsSupersetOf({"QuantizeLinear(a, a_scale_1, a_zero_point) -> a_QuantizeLinear_Output_2",
                            "QuantizeLinear(a_scale, a_scale_scale, a_scale_zero_point) -> "
                            "a_scale_QuantizeLinear_Output"}));
}

TEST(QdqModelTest, ChannelsGetAnAxis) {
  QdqTensor tensor = Activation("relu");
  tensor.qparams.set_channel_axis(-3);
  for (const float scale : {0.25F, 0.5F}) {
    tensor.qparams.add_scale(scale);
    tensor.qparams.add_zero_point(7);
  }
  const onnx::ModelProto made = Quantized(SmallNetwork(), {tensor});
  const onnx::NodeProto& quantize = *ProducerOf(made, "relu_QuantizeLinear_Output");
  ASSERT_EQ(quantize.attribute_size(), 1);
  EXPECT_EQ(quantize.attribute(0).name(), "axis");
  EXPECT_EQ(quantize.attribute(0).i(), -3);
  EXPECT_THAT(InitializerOf(made, "relu_scale")->dims(), ElementsAre(3));
  EXPECT_THAT(InitializerOf(made, "relu_scale")->float_data(), ElementsAre(0.05F, 0.25F, 0.5F));
  EXPECT_EQ(InitializerOf(made, "relu_zero_point")->raw_data(), "\x80\x07\x07");
}

TEST(QdqModelTest, OneScaleATensorNeedsOnlyOpset10) {
  const onnx::ModelProto made = Quantized(SmallNetwork(10), {Activation("x"), Activation("relu"), Activation("y")});
  EXPECT_EQ(made.opset_import(0).version(), 10);
  EXPECT_EQ(made.ir_version(), 8);
}

TEST(QdqModelTest, TheOrderOfTensorsDoesNotCount) {
  const std::string model = SmallNetwork().SerializeAsString();
  const QdqOptions options;
  const std::vector<QdqTensor> tensors = {Activation("x"), Activation("relu"), Activation("fc")};
  const std::vector<QdqTensor> reversed(tensors.rbegin(), tensors.rend());
  const absl::StatusOr<QdqModel> made = MakeQdqModel(model, tensors, options);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->bytes, MakeQdqModel(model, tensors, options)->bytes);
  EXPECT_EQ(made->bytes, MakeQdqModel(model, reversed, options)->bytes);
}

TEST(QdqModelTest, WithoutTensorsAndWeightsTheModelStaysAsItIs) {
  onnx::ModelProto model = SmallNetwork();
  model.set_producer_name("test");
  model.GetReflection()->MutableUnknownFields(&model)->AddVarint(1000, 7);  // of a later schema
  const absl::StatusOr<QdqModel> made = MakeQdqModel(model.SerializeAsString(), {}, ActivationsOnly());
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->bytes, model.SerializeAsString());
}

TEST(QdqModelTest, TypesOfLaterOpsetsRaiseTheIrVersionAlone) {
  for (const auto& [type, data_type, opset, ir_version] :
       {std::tuple(v1::QUANT_TYPE_INT4, 22, 21, 10), std::tuple(v1::QUANT_TYPE_UINT4, 21, 21, 10),
        std::tuple(v1::QUANT_TYPE_INT16, 5, 21, 8), std::tuple(v1::QUANT_TYPE_UINT16, 4, 21, 8),
        std::tuple(v1::QUANT_TYPE_FP8_E4M3, 17, 19, 9), std::tuple(v1::QUANT_TYPE_FP8_E5M2, 19, 19, 9)}) {
    onnx::ModelProto model = SmallNetwork();
    model.mutable_opset_import(0)->set_version(opset);
    QdqTensor tensor = Activation("x");
    tensor.qparams.mutable_spec()->set_type(type);
    tensor.qparams.mutable_spec()->set_scheme(v1::QUANT_SCHEME_SYMMETRIC);
    tensor.qparams.set_zero_point(0, 0);
    tensor.qparams.set_qmax(7);
    // Debian's checker does not know these opsets.
    const absl::StatusOr<QdqModel> result =
        MakeQdqModel(model.SerializeAsString(), std::vector<QdqTensor>{tensor}, ActivationsOnly());
    ASSERT_TRUE(result.ok()) << result.status();
    onnx::ModelProto made;
    ASSERT_TRUE(made.ParseFromString(result->bytes));
    EXPECT_EQ(made.ir_version(), ir_version);
    EXPECT_EQ(made.opset_import(0).version(), opset);
    EXPECT_EQ(InitializerOf(made, "x_zero_point")->data_type(), data_type);
  }
}

}  // namespace
}  // namespace calib::server
