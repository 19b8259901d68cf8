#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "quant/calibrate.h"
#include "quant/observe.h"
#include "server/export/qdq/qdq_model.h"
#include "server/export/qdq/weight_calibration.h"
#include "tests/export/onnx_fixture.h"

namespace calib::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct MadeWeights {
  onnx::ModelProto model;
  std::vector<std::string> from_model;
};

MadeWeights MakeWeights(const onnx::ModelProto& model, const std::vector<QdqTensor>& tensors = {},
                        const QdqOptions& options = {}) {
  const absl::StatusOr<QdqModel> made = MakeQdqModel(model.SerializeAsString(), tensors, options);
  EXPECT_TRUE(made.ok()) << made.status();
  if (!made.ok()) return {};
  return {ParseChecked(made->bytes), made->from_model};
}

std::vector<float> RawFloats(const onnx::TensorProto& tensor) {
  std::vector<float> values(tensor.raw_data().size() / sizeof(float));
  std::memcpy(values.data(), tensor.raw_data().data(), tensor.raw_data().size());
  return values;
}

std::optional<int> AxisOf(const onnx::NodeProto& node) {
  if (node.attribute_size() == 0) return std::nullopt;
  return static_cast<int>(node.attribute(0).i());
}

// Every value is within half a step of what its code stands for. Channels as DequantizeLinear has them.
void ExpectCodesNear(const onnx::TensorProto& weight, const onnx::ModelProto& made) {
  SCOPED_TRACE(weight.name());
  const std::vector<float> values = RawFloats(weight);
  const onnx::TensorProto& codes = *InitializerOf(made, weight.name() + "_quantized");
  const onnx::TensorProto& scale = *InitializerOf(made, weight.name() + "_scale");
  const std::optional<int> axis = AxisOf(*ProducerOf(made, weight.name() + "_DequantizeLinear_Output"));
  ASSERT_EQ(codes.raw_data().size(), values.size());
  size_t inner = 1;
  for (int i = axis.value_or(0) + 1; axis.has_value() && i < weight.dims_size(); ++i) inner *= weight.dims(i);
  for (size_t i = 0; i < values.size(); ++i) {
    const float step = scale.float_data(static_cast<int>(i / inner % scale.float_data_size()));
    const auto code = static_cast<signed char>(codes.raw_data()[i]);
    EXPECT_LE(std::abs(values[i] - step * code), step * 0.50001F) << i;
    EXPECT_NE(code, -128);
  }
}

TEST(QdqWeightsTest, AreStoredAsCodesPerOutputChannelByTheirOwnValues) {
  const onnx::ModelProto model = SmallNetwork();
  const MadeWeights made = MakeWeights(model);
  EXPECT_THAT(made.from_model, ElementsAre("conv_w", "fc_w", "proj"));
  EXPECT_THAT(Nodes(made.model.graph()),
              ElementsAre("DequantizeLinear(conv_w_quantized, conv_w_scale, conv_w_zero_point) -> "
                          "conv_w_DequantizeLinear_Output",
                          "DequantizeLinear(fc_w_quantized, fc_w_scale, fc_w_zero_point) -> "
                          "fc_w_DequantizeLinear_Output",
                          "DequantizeLinear(proj_quantized, proj_scale, proj_zero_point) -> "
                          "proj_DequantizeLinear_Output",
                          "Conv(x, conv_w_DequantizeLinear_Output, conv_b) -> conv", "Relu(conv) -> relu",
                          "Flatten(relu) -> flat", "Gemm(flat, fc_w_DequantizeLinear_Output, fc_b) -> fc",
                          "MatMul(fc, proj_DequantizeLinear_Output) -> y"));
  EXPECT_EQ(AxisOf(made.model.graph().node(0)), 0);
  EXPECT_EQ(AxisOf(made.model.graph().node(1)), 0);
  EXPECT_EQ(AxisOf(made.model.graph().node(2)), 1);
  for (const char* const name : {"conv_w", "fc_w", "proj"}) {
    EXPECT_EQ(InitializerOf(made.model, name), nullptr);
    ExpectCodesNear(*InitializerOf(model, name), made.model);
  }
  // Symmetric int8 as ONNX Runtime and TensorRT take it: greatest magnitude / 127. proj's columns end in 2.5 and 3.5.
  EXPECT_THAT(InitializerOf(made.model, "proj_scale")->float_data(), ElementsAre(3.5F / 127, 3.5F / 127));
  EXPECT_EQ(InitializerOf(made.model, "conv_b")->data_type(), onnx::TensorProto::FLOAT);
}

TEST(QdqWeightsTest, ATensorsParametersAreTaken) {
  const std::vector<QdqTensor> tensors = {SymmetricWeight("proj", {0.5F, 0.25F}, -1),
                                          SymmetricWeight("conv_w", {0.125F}, std::nullopt)};
  const MadeWeights made = MakeWeights(SmallNetwork(), tensors);
  EXPECT_THAT(made.from_model, ElementsAre("fc_w"));
  // [-3.5 .. 3.5] by columns, half to even.
  EXPECT_EQ(InitializerOf(made.model, "proj_quantized")->raw_data(),
            std::string("\xf9\xf6\xfd\xfe\x01\x06\x05\x0e", 8));
  EXPECT_EQ(AxisOf(*ProducerOf(made.model, "proj_DequantizeLinear_Output")), -1);
  EXPECT_EQ(AxisOf(*ProducerOf(made.model, "conv_w_DequantizeLinear_Output")), std::nullopt);
}

TEST(QdqWeightsTest, FloatWeightsStayBeforeQuantize) {
  const onnx::ModelProto model = SmallNetwork();
  const MadeWeights made = MakeWeights(model, {}, {.float_weights = true});
  EXPECT_THAT(made.from_model, ElementsAre("conv_w", "fc_w", "proj"));
  EXPECT_EQ(InitializerOf(made.model, "proj")->raw_data(), InitializerOf(model, "proj")->raw_data());
  EXPECT_THAT(Nodes(made.model.graph()),
              Contains("QuantizeLinear(proj, proj_scale, proj_zero_point) -> proj_QuantizeLinear_Output"));
  EXPECT_EQ(ProducerOf(made.model, "y")->input(1), "proj_DequantizeLinear_Output");
}

TEST(QdqWeightsTest, TheSpecIsFollowed) {
  QdqOptions options;
  options.weight_spec.granularity = QuantGranularity::kPerTensor;
  options.weight_spec.reduce_range = true;
  MadeWeights made = MakeWeights(SmallNetwork(), {}, options);
  // [-3.5 .. 3.5] as [-64 .. 64].
  EXPECT_EQ(InitializerOf(made.model, "proj_quantized")->raw_data(), "\xc0\xd2\xe5\xf7\x09\x1b\x2e\x40");
  options.weight_spec = {.type = {.is_signed = false}, .preset = QuantPreset::kOnnxruntime};
  made = MakeWeights(SmallNetwork(), {}, options);
  EXPECT_EQ(InitializerOf(made.model, "proj_quantized")->data_type(), onnx::TensorProto::UINT8);
  EXPECT_EQ(InitializerOf(made.model, "proj_zero_point")->raw_data(), "\x7f");
  EXPECT_THAT(InitializerOf(made.model, "proj_scale")->float_data(), ElementsAre(7.F / 254));
}

TEST(QdqWeightsTest, ActivationsOnlyLeavesThemAlone) {
  const onnx::ModelProto model = SmallNetwork();
  const MadeWeights made =
      MakeWeights(model, {SymmetricWeight("no such weight", {1}, std::nullopt)}, {.activations_only = true});
  EXPECT_THAT(made.from_model, IsEmpty());
  EXPECT_EQ(made.model.SerializeAsString(), model.SerializeAsString());
}

TEST(QdqWeightsTest, ASharedWeightIsQuantizedOnceAndOtherReadersReadItToo) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 3] x, int64[2] ids) => (float[2, 3] y, float[2, 3] z, float[2, 3] e) {
        y = MatMul(x, w)
        z = Gemm(x, w)
        e = Gather(w, ids)
      })");
  AddWeight("w", {3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_THAT(made.from_model, ElementsAre("w"));
  EXPECT_EQ(made.model.graph().node_size(), 4);
  for (const char* const output : {"y", "z"}) {
    EXPECT_EQ(ProducerOf(made.model, output)->input(1), "w_DequantizeLinear_Output");
  }
  EXPECT_EQ(ProducerOf(made.model, "e")->input(0), "w_DequantizeLinear_Output");
  EXPECT_EQ(AxisOf(made.model.graph().node(0)), 1);
  ExpectCodesNear(*InitializerOf(model, "w"), made.model);
}

TEST(QdqWeightsTest, ReadersThatDifferInTheirAxisGetOneScale) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 3] x) => (float[2, 3] y) {
        a = MatMul(x, w)
        y = Gemm<transB = 1>(a, w)
      })");
  AddWeight("w", {3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_EQ(AxisOf(*ProducerOf(made.model, "w_DequantizeLinear_Output")), std::nullopt);
  EXPECT_THAT(InitializerOf(made.model, "w_scale")->float_data(), ElementsAre(9.F / 127));
}

TEST(QdqWeightsTest, ConstantNodesAndFirstInputsOfMatMulAreWeightsToo) {
  onnx::ModelProto model = ParseText(R"(
      network (float[3, 2] x) => (float[2, 2] y) {
        w = Constant<value = float[2, 3] {1, 2, 3, 4, 5, 6}>()
        y = MatMul(w, x)
      })");
  MadeWeights made = MakeWeights(model);
  EXPECT_THAT(made.from_model, ElementsAre("w"));
  EXPECT_THAT(Nodes(made.model.graph()),
              ElementsAre("DequantizeLinear(w_quantized, w_scale, w_zero_point) -> w_DequantizeLinear_Output",
                          "MatMul(w_DequantizeLinear_Output, x) -> y"));
  // ONNX Runtime refuses a scale for each row.
  EXPECT_EQ(AxisOf(made.model.graph().node(0)), std::nullopt);
  EXPECT_THAT(InitializerOf(made.model, "w_scale")->float_data(), ElementsAre(6.F / 127));
  EXPECT_EQ(InitializerOf(made.model, "w_quantized")->raw_data(), "\x15\x2a\x40\x55\x6a\x7f");

  made = MakeWeights(model, {}, {.float_weights = true});
  EXPECT_THAT(
      Nodes(made.model.graph()),
      ElementsAre("Constant() -> w", "QuantizeLinear(w, w_scale, w_zero_point) -> w_QuantizeLinear_Output",
                  "DequantizeLinear(w_QuantizeLinear_Output, w_scale, w_zero_point) -> w_DequantizeLinear_Output",
                  "MatMul(w_DequantizeLinear_Output, x) -> y"));
}

TEST(QdqWeightsTest, AStackOfMatricesGetsOneScale) {
  onnx::ModelProto model = ParseText(R"(
      network (float[4, 2] x) => (float[2, 4, 2] y) { y = MatMul(x, w) })");
  AddWeight("w", {2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8}, &model);
  MadeWeights made = MakeWeights(model);
  EXPECT_EQ(AxisOf(made.model.graph().node(0)), std::nullopt);
  EXPECT_THAT(InitializerOf(made.model, "w_scale")->float_data(), ElementsAre(8.F / 127));
  ExpectCodesNear(*InitializerOf(model, "w"), made.model);

  made = MakeWeights(model, {SymmetricWeight("w", {0.25F}, std::nullopt)});
  EXPECT_THAT(InitializerOf(made.model, "w_scale")->float_data(), ElementsAre(0.25F));
}

TEST(QdqWeightsTest, ConvTransposeHasItsOutputChannelsOnAxisOne) {
  onnx::ModelProto model = ParseText(R"(
      network (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y) { y = ConvTranspose(x, w) })");
  AddWeight("w", {2, 3, 1, 1}, {1, 2, 3, -4, 5, -6}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_EQ(AxisOf(made.model.graph().node(0)), 1);
  EXPECT_THAT(InitializerOf(made.model, "w_scale")->float_data(), ElementsAre(4.F / 127, 5.F / 127, 6.F / 127));
}

TEST(QdqWeightsTest, WeightsThatBodiesReadAreQuantized) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 2] x, bool c) => (float[2, 2] y) {
        y = If(c) <
          then_branch = left () => (float[2, 2] t) { t = MatMul(x, w) },
          else_branch = right () => (float[2, 2] e) { e = Identity(x) }
        >
      })");
  AddWeight("w", {2, 2}, {1, 2, 3, 4}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_THAT(Nodes(ProducerOf(made.model, "y")->attribute(0).g()),
              ElementsAre("MatMul(x, w_DequantizeLinear_Output) -> t"));
}

TEST(QdqWeightsTest, AnInputsDefaultStaysAnInput) {
  onnx::ModelProto model = ParseText(R"(
      network (float[2, 2] x, float[2, 2] w) => (float[2, 2] y) { y = MatMul(x, w) })");
  AddWeight("w", {2, 2}, {1, 2, 3, 4}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_EQ(made.model.graph().input_size(), 2);
  EXPECT_NE(InitializerOf(made.model, "w"), nullptr);
  EXPECT_EQ(ProducerOf(made.model, "w_QuantizeLinear_Output")->input(0), "w");
}

TEST(QdqWeightsTest, AnExternalWeightWithParametersStaysWhereItIs) {
  onnx::ModelProto model = SmallNetwork();
  onnx::TensorProto& proj = *model.mutable_graph()->mutable_initializer(3);
  proj.clear_raw_data();
  proj.set_data_location(onnx::TensorProto::EXTERNAL);
  auto& location = *proj.add_external_data();
  location.set_key("location");
  location.set_value("weights.bin");
  const absl::StatusOr<QdqModel> result =
      MakeQdqModel(model.SerializeAsString(), std::vector<QdqTensor>{SymmetricWeight("proj", {1, 1}, 1)}, QdqOptions{});
  ASSERT_TRUE(result.ok()) << result.status();
  onnx::ModelProto made;
  ASSERT_TRUE(made.ParseFromString(result->bytes));
  EXPECT_EQ(InitializerOf(made, "proj")->external_data(0).value(), "weights.bin");
  EXPECT_EQ(ProducerOf(made, "y")->input(1), "proj_DequantizeLinear_Output");
  EXPECT_THAT(result->from_model, ElementsAre("conv_w", "fc_w"));
}

TEST(QdqWeightsTest, OtherTypesEmptyAndQuantizedOnesStayAsTheyAre) {
  onnx::ModelProto model = ParseText(R"(
      network (float16[2, 2] h, float[2, 0] n, float[2, 2] x) => (float16[2, 2] a, float[2, 2] b, float[2, 2] c) {
        a = MatMul(h, half)
        b = MatMul(n, empty)
        q = QuantizeLinear(w, s)
        d = DequantizeLinear(q, s)
        c = MatMul(x, d)
      })");
  AddWeight("half", {2, 2}, {0, 0}, &model);
  model.mutable_graph()->mutable_initializer(0)->set_data_type(onnx::TensorProto::FLOAT16);
  AddWeight("empty", {0, 2}, {}, &model);
  AddWeight("w", {2, 2}, {1, 2, 3, 4}, &model);
  AddWeight("s", {}, {1}, &model);
  const MadeWeights made = MakeWeights(model);
  EXPECT_THAT(made.from_model, IsEmpty());
  EXPECT_EQ(made.model.SerializeAsString(), model.SerializeAsString());
}

TEST(QdqWeightsTest, FloatDataIsReadAsRawDataIs) {
  onnx::ModelProto raw = SmallNetwork(), listed = SmallNetwork();
  for (onnx::TensorProto& tensor : *listed.mutable_graph()->mutable_initializer()) {
    if (tensor.dims_size() < 2) continue;  // bias
    for (const float value : RawFloats(tensor)) tensor.add_float_data(value);
    tensor.clear_raw_data();
  }
  EXPECT_EQ(MakeWeights(raw).model.SerializeAsString(), MakeWeights(listed).model.SerializeAsString());
}

TEST(QdqWeightsTest, DeclarationsOfStoredWeightsGo) {
  onnx::ModelProto model = SmallNetwork();
  for (const char* const name : {"fc", "proj"}) {
    onnx::ValueInfoProto* const declaration = model.mutable_graph()->add_value_info();
    declaration->set_name(name);
    declaration->mutable_type()->mutable_tensor_type()->set_elem_type(onnx::TensorProto::FLOAT);
  }
  const MadeWeights made = MakeWeights(model);
  ASSERT_EQ(made.model.graph().value_info_size(), 1);
  EXPECT_EQ(made.model.graph().value_info(0).name(), "fc");
}

TEST(QdqWeightsTest, TheWorkEndsBetweenChannelsWhenItIsAbandoned) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> dims = {3, 2};
  const QuantSpec spec{.granularity = QuantGranularity::kPerChannel};
  int asked = 0;
  const auto after_one = [&asked] { return ++asked > 1; };
  EXPECT_TRUE(absl::IsCancelled(CalibrateWeight(values, dims, 0, {}, spec, after_one).status()));
  EXPECT_EQ(asked, 2);

  QdqOptions options;
  options.abandoned = [] { return true; };
  const onnx::ModelProto model = SmallNetwork();
  EXPECT_TRUE(absl::IsCancelled(MakeQdqModel(model.SerializeAsString(), {}, options).status()));
}

// Parameters are those that the whole weight's statistics give.
TEST(QdqWeightsTest, CalibrationOfAWeightIsThatOfItsStatistics) {
  std::vector<float> values(3 * 40 * 5);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t amplitude = i % 40 / 5 + 1;
    values[i] = std::sin(static_cast<float>(i * i)) * static_cast<float>(amplitude);
  }
  const std::vector<int64_t> dims = {3, 40, 5};
  for (const char* const type : {"int8", "int4", "auto8", "fp8_e4m3"}) {
    for (const CalibrationMethod method :
         {CalibrationMethod::kMinMax, CalibrationMethod::kMse, CalibrationMethod::kPercentile}) {
      for (const std::optional<int> axis : {std::optional<int>(), std::optional<int>(1), std::optional<int>(0)}) {
        const QuantSpec spec{
            .type = ParseQuantType(type).value(),
            .granularity = axis.has_value() ? QuantGranularity::kPerChannel : QuantGranularity::kPerTensor};
        const absl::StatusOr<TensorQuantization> own = CalibrateWeight(values, dims, axis, {.method = method}, spec);
        ASSERT_TRUE(own.ok()) << own.status();
        LayerStatistics statistics({.channel_axis = axis});
        TensorObserver observer;
        const uint64_t shape[] = {3, 40, 5};
        ASSERT_TRUE(
            observer
                .Observe({.shape = shape, .data = {reinterpret_cast<const uint8_t*>(values.data()), values.size() * 4}},
                         &statistics)
                .ok());
        const LayerQParams whole = Calibrate(statistics, {.method = method}, spec).value();
        EXPECT_EQ(own->params, whole.params) << type << " " << MethodName(method);
        EXPECT_EQ(own->qmin, whole.rules.qmin);
        EXPECT_EQ(own->qmax, whole.rules.qmax);
        EXPECT_EQ(own->axis, axis);
      }
    }
  }
}

}  // namespace
}  // namespace calib::server
