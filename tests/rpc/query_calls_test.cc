#include "server/rpc/query_calls.h"

#include <gmock/gmock.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::HasSubstr;

test::InProcessServerOptions SmallAnswers() {
  test::InProcessServerOptions options;
  options.grpc.max_message_bytes = 64 << 10;
  return options;
}

std::vector<float> Ramp(int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(static_cast<float>(i - n / 3) / 16);
  return values;
}

// Values of `pages` powers of two, so that their histogram takes much space.
std::vector<float> Wide(int n) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(std::ldexp(1 + static_cast<float>(i % 128) / 128, i / 128 % 120 - 60));
  return values;
}

class QueryCallsTest : public RpcTest {
 protected:
  using RpcTest::RpcTest;

  grpc::Status Compute(const v1::ComputeQParamsRequest& request, v1::ComputeQParamsResponse* response) {
    return Call(stub_.get(), &Stub::ComputeQParams, request, response);
  }
  grpc::Status Statistics(const std::string& pattern, const std::string& token, v1::GetStatisticsResponse* response,
                          int page_size = 0) {
    v1::GetStatisticsRequest request;
    request.set_session("s");
    request.set_pattern(pattern);
    request.set_page_token(token);
    request.set_page_size(page_size);
    return Call(stub_.get(), &Stub::GetStatistics, request, response);
  }
};

TEST_F(QueryCallsTest, ComputesQParamsOfMatchingLayersInNameOrder) {
  Push("s", {"y", "x", "range/z"}, {-1, 0, 2});
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  v1::ComputeQParamsResponse response;
  ASSERT_TRUE(Compute(request, &response).ok());
  ASSERT_EQ(response.layer_size(), 3);
  EXPECT_EQ(response.layer(0).layer(), "range/z");
  EXPECT_EQ(response.layer(1).layer(), "x");
  EXPECT_EQ(response.layer(2).layer(), "y");
  const v1::LayerQParams& x = response.layer(1);
  EXPECT_FALSE(x.has_error());
  EXPECT_EQ(x.method().method(), v1::CALIBRATION_METHOD_MINMAX);
  EXPECT_EQ(x.spec().type(), v1::QUANT_TYPE_INT8);
  EXPECT_EQ(x.scale(0), 2 / 127.5f);
  EXPECT_EQ(x.min(), -1);
  EXPECT_EQ(x.max(), 2);
  EXPECT_EQ(x.count(), 3u);
  EXPECT_EQ(x.workers(), 1u);
  EXPECT_TRUE(x.has_mse());
  EXPECT_FALSE(response.layer(0).has_mse()) << "a minmax observer has no histogram";
  request.set_pattern("x*");
  ASSERT_TRUE(Compute(request, &response).ok());
  EXPECT_EQ(response.layer_size(), 1);
}

TEST_F(QueryCallsTest, LayerErrorsDoNotFailTheCall) {
  Push("s", {"full", "range/r"}, {1, 2});
  Push("s", {"nan"}, {std::nanf("")});
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  request.mutable_method()->set_method(v1::CALIBRATION_METHOD_MSE);
  v1::ComputeQParamsResponse response;
  ASSERT_TRUE(Compute(request, &response).ok());
  ASSERT_EQ(response.layer_size(), 3);
  EXPECT_FALSE(response.layer(0).has_error()) << response.layer(0).error().message();
  EXPECT_EQ(response.layer(1).error().info().reason(), "LAYER_EMPTY");
  EXPECT_THAT(response.layer(1).error().message(), HasSubstr("nan"));
  EXPECT_EQ(response.layer(1).scale_size(), 0);
  EXPECT_EQ(response.layer(2).error().info().reason(), "METHOD_NEEDS_HISTOGRAM");
  EXPECT_EQ(response.layer(2).error().info().metadata().at("layer"), "range/r");

  request.clear_method();
  request.mutable_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  request.set_pattern("full");
  ASSERT_TRUE(Compute(request, &response).ok());
  EXPECT_EQ(response.layer(0).error().info().reason(), "LAYER_NOT_PER_CHANNEL");
}

TEST_F(QueryCallsTest, MalformedQueriesFail) {
  Push("s", {"a"}, {1, 2});
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  request.set_pattern("b*");
  v1::ComputeQParamsResponse response;
  const grpc::Status missing = Compute(request, &response);
  EXPECT_REASON(missing, LAYER_NOT_FOUND, NOT_FOUND);
  EXPECT_THAT(missing.error_message(), HasSubstr("b*"));
  request.set_pattern(std::string(513, '*'));
  EXPECT_REASON(Compute(request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  request.clear_pattern();
  request.mutable_method()->set_method(v1::CALIBRATION_METHOD_PERCENTILE);
  request.mutable_method()->set_percentile(101);
  const grpc::Status percentile = Compute(request, &response);
  EXPECT_REASON(percentile, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(percentile.error_message(), HasSubstr("method.percentile"));
  request.mutable_method()->clear_percentile();
  request.mutable_method()->set_method(static_cast<v1::CalibrationMethod>(99));
  EXPECT_REASON(Compute(request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  request.clear_method();
  request.mutable_spec()->set_preset(v1::QUANT_PRESET_TENSORRT);
  request.mutable_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  EXPECT_REASON(Compute(request, &response), SPEC_INVALID, INVALID_ARGUMENT);
  request.set_session("nowhere");
  request.clear_spec();
  EXPECT_REASON(Compute(request, &response), SESSION_NOT_FOUND, NOT_FOUND);
}

TEST_F(QueryCallsTest, ComparesMethodsInTheOrderAsked) {
  Push("s", {"a", "b"}, Ramp(1000));
  v1::CompareMethodsRequest request;
  request.set_session("s");
  request.add_method()->set_method(v1::CALIBRATION_METHOD_MSE);
  request.add_method()->set_method(v1::CALIBRATION_METHOD_MINMAX);
  request.add_spec()->set_type(v1::QUANT_TYPE_INT8);
  request.add_spec()->set_type(v1::QUANT_TYPE_INT4);
  v1::CompareMethodsResponse response;
  ASSERT_TRUE(Call(stub_.get(), &Stub::CompareMethods, request, &response).ok());
  ASSERT_EQ(response.layer_size(), 8);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(response.layer(i).layer(), i < 4 ? "a" : "b");
    EXPECT_EQ(response.layer(i).spec().type(), i % 4 < 2 ? v1::QUANT_TYPE_INT8 : v1::QUANT_TYPE_INT4);
    EXPECT_EQ(response.layer(i).method().method(),
              i % 2 == 0 ? v1::CALIBRATION_METHOD_MSE : v1::CALIBRATION_METHOD_MINMAX);
  }
  EXPECT_LE(response.layer(0).mse(), response.layer(1).mse());
  EXPECT_GT(response.layer(2).mse(), response.layer(0).mse());
}

TEST_F(QueryCallsTest, ComparisonsAreBounded) {
  Push("s", {"a"}, {1});
  v1::CompareMethodsRequest request;
  request.set_session("s");
  v1::CompareMethodsResponse response;
  EXPECT_REASON(Call(stub_.get(), &Stub::CompareMethods, request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  for (int i = 0; i < 13; ++i) request.add_method();
  const grpc::Status no_spec = Call(stub_.get(), &Stub::CompareMethods, request, &response);
  EXPECT_REASON(no_spec, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(no_spec.error_message(), HasSubstr("spec"));
  for (int i = 0; i < 5; ++i) request.add_spec();
  const grpc::Status too_many = Call(stub_.get(), &Stub::CompareMethods, request, &response);
  EXPECT_REASON(too_many, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(too_many.error_message(), HasSubstr("64"));
  request.mutable_method()->RemoveLast();
  EXPECT_TRUE(Call(stub_.get(), &Stub::CompareMethods, request, &response).ok());
  EXPECT_EQ(response.layer_size(), 60);
}

TEST_F(QueryCallsTest, AQueryStopsBetweenLayersAndChannelsWhenItsCallerIsGone) {
  Push("s", {"a", "b", "channels/c", "d"}, {1, 2});
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  int asked = 0;
  QueryLimits limits;
  limits.abandoned = [&asked] { return ++asked > 6; };
  v1::ComputeQParamsResponse response;
  EXPECT_EQ(server::ComputeQParams(server_.engine(), request, limits, &response).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(response.layer_size(), 3) << "d is given up before its channel; c's are merged into one look";
  EXPECT_EQ(asked, 7);
}

TEST_F(QueryCallsTest, StatisticsComeBackAsCollected) {
  Push("s", {"a", "channels/c", "range/r"}, {-1, 0.5, 3});
  v1::GetStatisticsResponse response;
  ASSERT_TRUE(Statistics("", "", &response).ok());
  ASSERT_EQ(response.layer_size(), 3);
  EXPECT_EQ(response.layer(1), "channels/c");
  const v1::StatisticsBatch& batch = response.statistics();
  ASSERT_EQ(batch.layer_size(), 3);
  EXPECT_EQ(batch.channels(1), 3u);
  EXPECT_EQ(batch.count_size(), 5);
  EXPECT_EQ(batch.min(0), -1);
  EXPECT_EQ(batch.max(0), 3);
  EXPECT_EQ(batch.max(2), 0.5);
  EXPECT_EQ(batch.histogram_size(), 4) << "none of the minmax layer";
  EXPECT_EQ(response.next_page_token(), "");
}

TEST_F(QueryCallsTest, StatisticsPageBySize) {
  Push("s", {"a", "b", "c"}, {1});
  v1::GetStatisticsResponse first, second, none;
  ASSERT_TRUE(Statistics("*", "", &first, 2).ok());
  EXPECT_EQ(first.layer_size(), 2);
  ASSERT_TRUE(Statistics("*", first.next_page_token(), &second, 2).ok());
  ASSERT_EQ(second.layer_size(), 1);
  EXPECT_EQ(second.layer(0), "c");
  EXPECT_EQ(second.statistics().layer(0), 0u) << "handles count from 0 on every page";
  EXPECT_EQ(second.next_page_token(), "");
  EXPECT_REASON(Statistics("z", "", &none), LAYER_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Statistics("*", "zzz", &none), INVALID_FIELD, INVALID_ARGUMENT);
}

TEST_F(QueryCallsTest, StatisticsPagesStopBeforeTwoMebibytes) {
  std::vector<std::string> layers;
  for (int i = 0; i < 200; ++i) layers.push_back(absl::StrCat("wide", 100 + i));
  Push("s", layers, Wide(128 * 120));
  size_t seen = 0;
  int pages = 0;
  std::string token;
  do {
    v1::GetStatisticsResponse response;
    ASSERT_TRUE(Statistics("", token, &response).ok());
    EXPECT_LE(response.ByteSizeLong(), size_t{2} << 20);
    for (const std::string& layer : response.layer()) EXPECT_EQ(layer, layers[seen++]);
    token = response.next_page_token();
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(seen, layers.size());
  EXPECT_GT(pages, 1);
}

class SmallAnswersTest : public QueryCallsTest {
 protected:
  SmallAnswersTest() : QueryCallsTest(SmallAnswers()) {}
};

TEST_F(SmallAnswersTest, ALayerThatFitsInNoAnswerSaysWhatToDo) {
  Push("s", {"channels/many"}, Ramp(5000));
  Push("s", {"small"}, {1});
  v1::GetStatisticsResponse response;
  const grpc::Status status = Statistics("", "", &response);
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("--max-message-bytes"));
  EXPECT_THAT(status.error_message(), HasSubstr("channels/many"));
  EXPECT_TRUE(Statistics("small", "", &response).ok());
}

TEST_F(SmallAnswersTest, TooManyLayersInOneAnswerSayWhatToDo) {
  Push("s", {"channels/many"}, Ramp(5000));
  v1::ComputeQParamsRequest request;
  request.set_session("s");
  request.mutable_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  v1::ComputeQParamsResponse response;
  const grpc::Status status = Compute(request, &response);
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("pattern"));
}

}  // namespace
}  // namespace calib::server
