#include <gmock/gmock.h>

#include <limits>
#include <memory>

#include "server/store/memory_store.h"
#include "server/web/metrics.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

test::InProcessServerOptions Options(std::shared_ptr<Store> store) {
  test::InProcessServerOptions options;
  options.store = std::move(store);
  options.engine.checkpoint_interval = absl::InfiniteDuration();  // durable only when asked for
  options.engine.limits.max_channels = 3;
  options.engine.limits.max_layers = 2;
  return options;
}

v1::SetQParamsRequest Request(const std::string& layer, const std::vector<float>& scale,
                              const std::vector<int64_t>& zero_point = {}) {
  v1::SetQParamsRequest request;
  request.set_session("s");
  request.set_layer(layer);
  request.mutable_scale()->Add(scale.begin(), scale.end());
  request.mutable_zero_point()->Add(zero_point.begin(), zero_point.end());
  return request;
}

class SetQParamsTest : public RpcTest {
 protected:
  SetQParamsTest() : SetQParamsTest(std::make_shared<MemoryStore>(MemoryStore::Options{.retain = true})) {}
  explicit SetQParamsTest(std::shared_ptr<MemoryStore> store) : RpcTest(Options(store)), store_(std::move(store)) {}

  grpc::Status Set(const v1::SetQParamsRequest& request) {
    v1::SetQParamsResponse response;
    return Call(stub_.get(), &Stub::SetQParams, request, &response);
  }
  v1::LayerQParams Compute(const std::string& layer, v1::QuantType type = v1::QUANT_TYPE_UNSPECIFIED) {
    v1::ComputeQParamsRequest request;
    request.set_session("s");
    request.set_pattern(layer);
    request.mutable_spec()->set_type(type);
    v1::ComputeQParamsResponse response;
    const grpc::Status status = Call(stub_.get(), &Stub::ComputeQParams, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.layer_size(), 1);
    return response.layer_size() == 1 ? response.layer(0) : v1::LayerQParams();
  }

  const std::shared_ptr<MemoryStore> store_;
};

TEST_F(SetQParamsTest, ComputeQParamsAnswersWhatWasSet) {
  ASSERT_TRUE(Set(Request("passive/a", {0.5f})).ok());
  ASSERT_TRUE(Set(Request("passive/c", {0.5f, 2}, {1, -3})).ok());
  const v1::LayerQParams whole = Compute("passive/a");
  EXPECT_FALSE(whole.has_error()) << whole.error().message();
  EXPECT_THAT(whole.scale(), ElementsAre(0.5f));
  EXPECT_THAT(whole.zero_point(), ElementsAre(0)) << "the default";
  EXPECT_EQ(whole.spec().type(), v1::QUANT_TYPE_INT8);
  EXPECT_EQ(whole.spec().granularity(), v1::QUANT_GRANULARITY_PER_TENSOR);
  EXPECT_EQ(whole.qmin(), -128);
  EXPECT_EQ(whole.qmax(), 127);
  EXPECT_THAT(whole.clip_max(), ElementsAre(63.5));
  EXPECT_EQ(whole.count(), 0u);
  EXPECT_EQ(whole.workers(), 0u);
  EXPECT_FALSE(whole.has_mse());
  EXPECT_FALSE(whole.has_channel_axis());

  const v1::LayerQParams channels = Compute("passive/c", v1::QUANT_TYPE_UINT4);
  EXPECT_THAT(channels.scale(), ElementsAre(0.5f, 2));
  EXPECT_THAT(channels.zero_point(), ElementsAre(1, -3));
  EXPECT_EQ(channels.spec().type(), v1::QUANT_TYPE_UINT4) << "as asked for";
  EXPECT_EQ(channels.spec().granularity(), v1::QUANT_GRANULARITY_PER_CHANNEL) << "as it was set";
  EXPECT_EQ(channels.qmax(), 15);
  // Nothing is known of the values, so the type that holds negative ones.
  EXPECT_EQ(Compute("passive/a", v1::QUANT_TYPE_AUTO8).spec().type(), v1::QUANT_TYPE_INT8);

  ASSERT_TRUE(Set(Request("passive/c", {4})).ok());
  EXPECT_THAT(Compute("passive/c").scale(), ElementsAre(4)) << "replaced";
}

TEST_F(SetQParamsTest, IsDurableOnReturn) {
  ASSERT_TRUE(Set(Request("passive/a", {0.5f}, {7})).ok());
  const auto sessions = store_->Load();
  ASSERT_TRUE(sessions.ok());
  ASSERT_EQ(sessions->size(), 1u);
  ASSERT_EQ(sessions->at(0).layers.size(), 1u);
  const LayerRecord& layer = sessions->at(0).layers[0];
  EXPECT_EQ(layer.name, "passive/a");
  ASSERT_TRUE(layer.statistics->channels().at(0).passive.has_value());
  EXPECT_EQ(layer.statistics->channels()[0].passive->zero_point, 7);
}

TEST_F(SetQParamsTest, RefusalsAreThoseOfTheContract) {
  v1::SetQParamsRequest elsewhere = Request("passive/a", {1});
  elsewhere.set_session("nowhere");
  EXPECT_REASON(Set(elsewhere), SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Set(Request("", {1})), LAYER_NAME_INVALID, INVALID_ARGUMENT);
  EXPECT_REASON(Set(Request("skip/a", {1})), LAYER_SKIPPED, INVALID_ARGUMENT);
  EXPECT_REASON(Set(Request("passive/a", {})), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Set(Request("passive/a", {0})), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Set(Request("passive/a", {1, -1})), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Set(Request("passive/a", {std::numeric_limits<float>::infinity()})), INVALID_FIELD, INVALID_ARGUMENT);
  const grpc::Status zero_points = Set(Request("passive/a", {1, 2}, {0}));
  EXPECT_REASON(zero_points, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(zero_points.error_message(), HasSubstr("zero_point"));
  for (const char* layer : {"other", "range/a", "ema/a", "reference/a"}) {
    EXPECT_REASON(Set(Request(layer, {1})), LAYER_NOT_PASSIVE, FAILED_PRECONDITION);
  }
  EXPECT_REASON(Set(Request("passive/a", {1, 1, 1, 1})), LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  v1::GetSessionRequest get;
  get.set_session("s");
  v1::GetSessionResponse session;
  ASSERT_TRUE(Call(stub_.get(), &Stub::GetSession, get, &session).ok());
  EXPECT_EQ(session.layer_size(), 0) << "nothing was changed";

  ASSERT_TRUE(Set(Request("passive/a", {1})).ok());
  ASSERT_TRUE(Set(Request("passive/b", {1})).ok());
  const grpc::Status layers = Set(Request("passive/c", {1}));
  EXPECT_REASON(layers, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(layers.error_message(), HasSubstr("--max-layers"));

  v1::SealSessionRequest seal;
  seal.set_session("s");
  v1::SealSessionResponse sealed;
  ASSERT_TRUE(Call(stub_.get(), &Stub::SealSession, seal, &sealed).ok());
  EXPECT_REASON(Set(Request("passive/a", {2})), SESSION_SEALED, FAILED_PRECONDITION);
  EXPECT_THAT(Compute("passive/a").scale(), ElementsAre(1)) << "answers go on";
}

TEST_F(SetQParamsTest, IsCountedUnderItsName) {
  ASSERT_TRUE(Set(Request("passive/a", {1})).ok());
  ASSERT_FALSE(Set(Request("other", {1})).ok());
  const MetricsCollector metrics(&server_.engine().counters());
  const std::string text = MetricsText(metrics);
  EXPECT_THAT(text, HasSubstr("calibd_rpcs_total{rpc=\"SetQParams\",code=\"OK\"} 1"));
  EXPECT_THAT(text, HasSubstr("calibd_rpcs_total{rpc=\"SetQParams\",code=\"FAILED_PRECONDITION\"} 1"));
}

}  // namespace
}  // namespace calib::server
