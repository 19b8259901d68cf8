// What queries answer of layers of every observer.
#include <gmock/gmock.h>

#include <cmath>

#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

test::InProcessServerOptions SmallMessages() {
  test::InProcessServerOptions options;
  options.grpc.max_message_bytes = 64 << 10;
  return options;
}

class ObserversTest : public RpcTest {
 protected:
  using RpcTest::RpcTest;

  v1::LayerQParams Compute(const std::string& layer, v1::CalibrationMethod method = v1::CALIBRATION_METHOD_MINMAX,
                           const v1::QuantSpec& spec = {}) {
    v1::ComputeQParamsRequest request;
    request.set_session("s");
    request.set_pattern(layer);
    request.mutable_method()->set_method(method);
    *request.mutable_spec() = spec;
    v1::ComputeQParamsResponse response;
    const grpc::Status status = Call(stub_.get(), &Stub::ComputeQParams, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.layer_size(), 1);
    return response.layer_size() == 1 ? response.layer(0) : v1::LayerQParams();
  }
  v1::GetStatisticsResponse Statistics() {
    v1::GetStatisticsRequest request;
    request.set_session("s");
    v1::GetStatisticsResponse response;
    const grpc::Status status = Call(stub_.get(), &Stub::GetStatistics, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  void SetPassive(const std::string& layer) {
    v1::SetQParamsRequest request;
    request.set_session("s");
    request.set_layer(layer);
    request.add_scale(0.5f);
    v1::SetQParamsResponse response;
    ASSERT_TRUE(Call(stub_.get(), &Stub::SetQParams, request, &response).ok());
  }
};

v1::QuantSpec Type(v1::QuantType type, v1::QuantScheme scheme = v1::QUANT_SCHEME_UNSPECIFIED) {
  v1::QuantSpec spec;
  spec.set_type(type);
  spec.set_scheme(scheme);
  return spec;
}

TEST_F(ObserversTest, MovingAveragesAnswerMinMaxOfTheirSteps) {
  Push("s", {"ema/a"}, {-1, 2});
  Push("s", {"ema/a"}, {-3, 8});
  const v1::LayerQParams answer = Compute("ema/a");
  EXPECT_FALSE(answer.has_error()) << answer.error().message();
  // Half of the old, half of the new: -2 to 5.
  EXPECT_THAT(answer.clip_min(), ElementsAre(-2));
  EXPECT_THAT(answer.clip_max(), ElementsAre(5));
  EXPECT_THAT(answer.scale(), ElementsAre(5 / 127.5f));
  EXPECT_EQ(answer.min(), -3) << "the data's own";
  EXPECT_EQ(answer.max(), 8);
  EXPECT_EQ(answer.count(), 4u);
  EXPECT_FALSE(answer.has_mse());
  EXPECT_EQ(Compute("ema/a", v1::CALIBRATION_METHOD_MSE).error().info().reason(), "METHOD_NEEDS_HISTOGRAM");
}

TEST_F(ObserversTest, ReferenceHistogramsAnswerEveryMethod) {
  std::vector<float> values;
  for (int i = 0; i < 500; ++i) values.push_back(std::sin(static_cast<float>(i)) * static_cast<float>(i % 7));
  Push("s", {"reference/a"}, values);
  for (int number = 1; number < v1::CalibrationMethod_ARRAYSIZE; ++number) {
    const v1::LayerQParams answer = Compute("reference/a", static_cast<v1::CalibrationMethod>(number));
    EXPECT_FALSE(answer.has_error()) << number << answer.error().message();
    EXPECT_EQ(answer.method().method(), number);
    EXPECT_EQ(answer.scale_size(), 1);
    EXPECT_TRUE(answer.has_mse());
    EXPECT_EQ(answer.count(), 500u);
  }
}

TEST_F(ObserversTest, LayersWithoutDataSaySo) {
  Push("s", {"ema/a", "reference/a"}, {std::nanf("")});
  EXPECT_EQ(Compute("ema/a").error().info().reason(), "LAYER_EMPTY");
  EXPECT_EQ(Compute("reference/a").error().info().reason(), "LAYER_EMPTY");
}

TEST_F(ObserversTest, StatisticsDescribeThemselves) {
  Push("s", {"a", "ema/a", "reference/a", "range/a"}, {-1, 0.5f});
  Push("s", {"ema_channels/c"}, {1, 2, 3});
  SetPassive("passive/a");
  const v1::GetStatisticsResponse response = Statistics();
  ASSERT_THAT(response.layer(), ElementsAre("a", "ema/a", "ema_channels/c", "passive/a", "range/a", "reference/a"));
  ASSERT_EQ(response.observer_size(), 6);
  EXPECT_EQ(response.observer(0).kind(), v1::OBSERVER_KIND_HISTOGRAM);
  EXPECT_EQ(response.observer(1).kind(), v1::OBSERVER_KIND_EMA);
  EXPECT_EQ(response.observer(1).ema().weight(), 0.5);
  EXPECT_EQ(response.observer(2).channel_axis(), -1);
  EXPECT_EQ(response.observer(3).kind(), v1::OBSERVER_KIND_PASSIVE);
  EXPECT_EQ(response.observer(4).kind(), v1::OBSERVER_KIND_MINMAX);
  EXPECT_EQ(response.observer(5).kind(), v1::OBSERVER_KIND_REFERENCE_HISTOGRAM);
  EXPECT_EQ(response.observer(5).reference_histogram().rule(), v1::REFERENCE_RULE_MXNET);
  const v1::StatisticsBatch& batch = response.statistics();
  EXPECT_THAT(batch.layer(), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(batch.histogram_size(), 1);
  ASSERT_EQ(batch.ema_size(), 1 + 3);
  EXPECT_EQ(batch.ema(0).min(), -1);
  EXPECT_EQ(batch.ema(0).max(), 0.5f);
  EXPECT_EQ(batch.ema(3).steps(), 1u);
  ASSERT_EQ(batch.reference_histogram_size(), 1);
  const v1::ReferenceHistogram& reference = batch.reference_histogram(0);
  EXPECT_EQ(reference.count_size(), 8001);
  EXPECT_EQ(reference.low(), -1);
  EXPECT_EQ(reference.high(), 1);
  EXPECT_EQ(reference.steps(), 1u);
  EXPECT_EQ(reference.max(), 0.5f);
}

TEST_F(ObserversTest, ThePageOfStatisticsDescribesItsOwnLayers) {
  Push("s", {"a", "ema/a"}, {1});
  v1::GetStatisticsRequest request;
  request.set_session("s");
  request.set_page_size(1);
  v1::GetStatisticsResponse response;
  ASSERT_TRUE(Call(stub_.get(), &Stub::GetStatistics, request, &response).ok());
  EXPECT_EQ(response.observer_size(), 1);
  request.set_page_token(response.next_page_token());
  ASSERT_TRUE(Call(stub_.get(), &Stub::GetStatistics, request, &response).ok());
  ASSERT_EQ(response.observer_size(), 1);
  EXPECT_EQ(response.observer(0).kind(), v1::OBSERVER_KIND_EMA);
}

TEST_F(ObserversTest, AutomaticTypesAnswerTheTypeTaken) {
  Push("s", {"positive"}, {0, 1, 2});
  Push("s", {"negative"}, {-1, 2});
  const v1::LayerQParams positive = Compute("positive", v1::CALIBRATION_METHOD_MINMAX, Type(v1::QUANT_TYPE_AUTO8));
  EXPECT_EQ(positive.spec().type(), v1::QUANT_TYPE_UINT8);
  EXPECT_EQ(positive.qmin(), 0);
  EXPECT_EQ(positive.qmax(), 255);
  const v1::LayerQParams negative = Compute("negative", v1::CALIBRATION_METHOD_MINMAX, Type(v1::QUANT_TYPE_AUTO8));
  EXPECT_EQ(negative.spec().type(), v1::QUANT_TYPE_INT8);
  EXPECT_EQ(negative.qmin(), -128);
  // What was asked for, where nothing was taken.
  Push("s", {"nan"}, {std::nanf("")});
  EXPECT_EQ(Compute("nan", v1::CALIBRATION_METHOD_MINMAX, Type(v1::QUANT_TYPE_AUTO8)).spec().type(),
            v1::QUANT_TYPE_AUTO8);
}

TEST_F(ObserversTest, AnswersPerChannelNameTheAxis) {
  Push("s", {"channels/c", "ema_channels/c"}, {1, 2, 3});
  v1::QuantSpec per_channel;
  per_channel.set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  const v1::LayerQParams histogram = Compute("channels/c", v1::CALIBRATION_METHOD_MINMAX, per_channel);
  EXPECT_EQ(histogram.scale_size(), 3);
  ASSERT_TRUE(histogram.has_channel_axis());
  EXPECT_EQ(histogram.channel_axis(), 0);
  const v1::LayerQParams ema = Compute("ema_channels/c", v1::CALIBRATION_METHOD_MINMAX, per_channel);
  EXPECT_EQ(ema.channel_axis(), -1) << "as the observer has it";
  EXPECT_FALSE(Compute("channels/c").has_channel_axis()) << "one scale for all";
}

TEST_F(ObserversTest, MethodsThatATypeDoesNotHaveAreTheLayersError) {
  Push("s", {"a", "reference/a"}, {-1, 0.5f, 2});
  for (const char* layer : {"a", "reference/a"}) {
    for (const v1::QuantType type : {v1::QUANT_TYPE_FP8_E4M3, v1::QUANT_TYPE_FP8_E5M2}) {
      for (const auto method : {v1::CALIBRATION_METHOD_ENTROPY, v1::CALIBRATION_METHOD_L2_GREEDY,
                                v1::CALIBRATION_METHOD_LSQ, v1::CALIBRATION_METHOD_LSQ_PLUS}) {
        const v1::LayerQParams answer = Compute(layer, method, Type(type));
        EXPECT_EQ(answer.error().info().reason(), "SPEC_INVALID") << answer.ShortDebugString();
        EXPECT_THAT(answer.error().message(), HasSubstr(layer));
      }
      EXPECT_FALSE(Compute(layer, v1::CALIBRATION_METHOD_MSE, Type(type)).has_error());
      EXPECT_EQ(Compute(layer, v1::CALIBRATION_METHOD_MINMAX, Type(type)).spec().type(), type);
    }
    const v1::QuantSpec affine = Type(v1::QUANT_TYPE_INT8, v1::QUANT_SCHEME_AFFINE);
    EXPECT_EQ(Compute(layer, v1::CALIBRATION_METHOD_LSQ, affine).error().info().reason(), "SPEC_INVALID");
    EXPECT_EQ(Compute(layer, v1::CALIBRATION_METHOD_LSQ_PLUS, affine).error().info().reason(), "SPEC_INVALID");
  }
  // A spec that contradicts itself is the request's error.
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  *request.mutable_spec() = Type(v1::QUANT_TYPE_FP8_E4M3, v1::QUANT_SCHEME_AFFINE);
  v1::ComputeQParamsResponse response;
  EXPECT_REASON(Call(stub_.get(), &Stub::ComputeQParams, request, &response), SPEC_INVALID, INVALID_ARGUMENT);
}

TEST_F(ObserversTest, StepsThatCannotBeTakenAreRefusedInBand) {
  ObserveClient client(stub_.get());
  client.Open("s", "w");
  client.Write(RegisterMessage(0, {"passive/a", "ema/a"}));
  client.Write(RawMessage(1, 1, 0, {1, 2}));
  const v1::Refusal refusal = client.ReadRefusal();
  EXPECT_EQ(ReasonOf(refusal.info()), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(refusal.info().metadata().at("layer"), "passive/a");
  client.Write(RawMessage(1, 1, 1, {1, 2}));
  client.WritesDone();
  v1::Ack ack;
  EXPECT_TRUE(client.Finish(&ack).ok());
  EXPECT_EQ(ack.durable(), 1u) << "the stream went on";
}

class SmallObserversTest : public ObserversTest {
 protected:
  SmallObserversTest() : ObserversTest(SmallMessages()) {}
};

TEST_F(SmallObserversTest, AWatchedLayerThatFitsIntoNoMessageSaysWhatToDo) {
  Push("s", {"channels/many"}, std::vector<float>(5000, 1.5f));
  Push("s", {"small"}, {1});
  v1::WatchQParamsRequest request;
  request.set_session("s");
  request.set_interval_ms(50);
  request.mutable_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = stub_->WatchQParams(context.get(), request);
  v1::WatchQParamsResponse response;
  while (reader->Read(&response))
    EXPECT_THAT(response.layer(), Each(::testing::Property(&v1::LayerQParams::layer, "small")));
  const grpc::Status status = reader->Finish();
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("pattern"));
}

}  // namespace
}  // namespace calib::server
