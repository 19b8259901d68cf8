#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;

class WatchTest : public RpcTest {
 protected:
  std::unique_ptr<grpc::ClientReader<v1::WatchQParamsResponse>> Watch(grpc::ClientContext* context,
                                                                      const std::string& pattern = "") {
    v1::WatchQParamsRequest request;
    request.set_session("s");
    request.set_pattern(pattern);
    request.set_interval_ms(50);
    return stub_->WatchQParams(context, request);
  }
  void Seal() {
    v1::SealSessionRequest request;
    request.set_session("s");
    v1::SealSessionResponse response;
    ASSERT_TRUE(Call(stub_.get(), &Stub::SealSession, request, &response).ok());
  }
};

TEST_F(WatchTest, SendsAllFirstThenWhatChangedAndEndsWhenSealed) {
  Push("s", {"a", "b"}, {1, 2});
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = Watch(context.get());
  v1::WatchQParamsResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_EQ(response.layer_size(), 2);
  EXPECT_EQ(response.layer(0).layer(), "a");
  EXPECT_EQ(response.layer(0).count(), 2u);
  EXPECT_EQ(response.session().name(), "s");
  ASSERT_EQ(response.worker_size(), 1);

  Push("s", {"b"}, {5});
  float b_max = 0;
  while (b_max != 5 && reader->Read(&response)) {
    for (const v1::LayerQParams& layer : response.layer()) {
      EXPECT_EQ(layer.layer(), "b") << "a did not change";
      b_max = layer.max();
    }
  }
  EXPECT_EQ(b_max, 5);

  Seal();
  bool sealed = false;
  while (reader->Read(&response)) sealed = response.session().sealed();
  EXPECT_TRUE(sealed) << "the last state was sent";
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(WatchTest, ASlowReaderMissesStepsButNotTheNewestState) {
  Push("s", {"a"}, {1});
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = Watch(context.get(), "a");
  constexpr int kPushes = 300;
  for (int i = 2; i <= kPushes; ++i) Push("s", {"a"}, {static_cast<float>(i)});
  Seal();
  v1::WatchQParamsResponse response;
  int messages = 0;
  uint64_t count = 0;
  while (reader->Read(&response)) {
    ++messages;
    for (const v1::LayerQParams& layer : response.layer()) {
      EXPECT_GE(layer.count(), count);
      count = layer.count();
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(count, uint64_t{kPushes});
  EXPECT_LT(messages, kPushes);
}

TEST_F(WatchTest, KeepsItsInterval) {
  Push("s", {"a"}, {1});
  const absl::Time start = absl::Now();
  v1::WatchQParamsRequest request;
  request.set_session("s");
  request.set_interval_ms(300);
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = stub_->WatchQParams(context.get(), request);
  v1::WatchQParamsResponse response;
  for (int i = 0; i < 3; ++i) {
    Push("s", {"a"}, {1});
    ASSERT_TRUE(reader->Read(&response));
  }
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(600)) << "three messages, two intervals";
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(WatchTest, APatternWithoutLayersWaitsForThem) {
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = Watch(context.get(), "late*");
  v1::WatchQParamsResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.layer_size(), 0);
  Push("s", {"late"}, {1});
  while (response.layer_size() == 0) ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.layer(0).layer(), "late");
}

TEST_F(WatchTest, ManyLayersComeInMessagesOfTwoMebibytes) {
  constexpr int kLayers = 6000;
  std::vector<std::string> layers;
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  for (int i = 0; i < kLayers; ++i) layers.push_back(absl::StrCat("range/", std::string(400, 'x'), 10000 + i));
  client.Write(RegisterMessage(0, layers));
  v1::ObserveRequest request;
  request.mutable_update()->set_first(1);
  request.mutable_update()->set_last(1);
  v1::StatisticsBatch* const batch = request.mutable_update()->mutable_statistics();
  for (int i = 0; i < kLayers; ++i) {
    batch->add_layer(i);
    batch->add_count(1);
    batch->add_min(1);
    batch->add_max(1);
  }
  client.Write(request);
  client.WritesDone();
  ASSERT_TRUE(client.Finish().ok());
  Seal();
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto reader = Watch(context.get());
  v1::WatchQParamsResponse response;
  int messages = 0, seen = 0;
  while (reader->Read(&response)) {
    ++messages;
    EXPECT_LT(response.ByteSizeLong(), size_t{3} << 20);
    for (const v1::LayerQParams& layer : response.layer()) EXPECT_EQ(layer.layer(), layers[seen++]);
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(seen, kLayers);
  EXPECT_GE(messages, 2);
}

TEST_F(WatchTest, ErrorsEndIt) {
  const auto finish = [this](const v1::WatchQParamsRequest& request) {
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    return stub_->WatchQParams(context.get(), request)->Finish();
  };
  v1::WatchQParamsRequest request;
  request.set_session("nowhere");
  EXPECT_REASON(finish(request), SESSION_NOT_FOUND, NOT_FOUND);
  request.set_session("s");
  request.set_interval_ms(49);
  EXPECT_REASON(finish(request), INVALID_FIELD, INVALID_ARGUMENT);
  request.clear_interval_ms();
  request.set_pattern(std::string(513, 'x'));
  EXPECT_REASON(finish(request), INVALID_FIELD, INVALID_ARGUMENT);
}

TEST_F(WatchTest, DeletionAndDrainEndIt) {
  const std::unique_ptr<grpc::ClientContext> deleted_context = TestContext();
  const auto deleted = Watch(deleted_context.get());
  v1::WatchQParamsResponse response;
  ASSERT_TRUE(deleted->Read(&response));
  v1::DeleteSessionRequest request;
  request.set_session("s");
  v1::DeleteSessionResponse gone;
  ASSERT_TRUE(Call(stub_.get(), &Stub::DeleteSession, request, &gone).ok());
  EXPECT_REASON(deleted->Finish(), SESSION_DELETED, NOT_FOUND);

  CreateSession("s");
  const std::unique_ptr<grpc::ClientContext> drained_context = TestContext();
  const auto drained = Watch(drained_context.get());
  ASSERT_TRUE(drained->Read(&response));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
  EXPECT_REASON(drained->Finish(), SERVER_DRAINING, UNAVAILABLE);
}

TEST_F(WatchTest, ManyCancelledWatchesLeaveNothingToWaitFor) {
  Push("s", {"a"}, {1});
  for (int i = 0; i < 200; ++i) {
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    const auto reader = Watch(context.get());
    v1::WatchQParamsResponse response;
    for (int r = 0; r < i % 2; ++r) reader->Read(&response);
    context->TryCancel();
    (void)reader->Finish();
  }
  const absl::Time start = absl::Now();
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

}  // namespace
}  // namespace calib::server
