#include <gmock/gmock.h>

#include "absl/time/time.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

// No checkpoints but those asked for, so that acks come for what a test does.
test::InProcessServerOptions OnRequest() {
  test::InProcessServerOptions options;
  options.engine.checkpoint_interval = absl::InfiniteDuration();
  return options;
}

class ObserveTest : public RpcTest {
 protected:
  ObserveTest() : RpcTest(OnRequest()) {}
};

TEST_F(ObserveTest, WelcomeTellsWhereTheWorkerStands) {
  ObserveClient first(stub_.get());
  const v1::Welcome welcome = first.Open("s", "w1");
  EXPECT_EQ(welcome.incarnation(), 1u);
  EXPECT_EQ(welcome.server_epoch(), server_.engine().server_epoch());
  EXPECT_EQ(welcome.applied(), 0u);
  EXPECT_EQ(welcome.config().rules_size(), Config().rules_size());
  first.Write(RegisterMessage(0, {"range/a"}));
  first.Write(RangeMessage(1, 5, 0, 10, -1, 1));
  first.ReadAck([](const v1::Ack& ack) { return ack.applied() == 5; });

  ObserveClient second(stub_.get());
  const v1::Welcome again = second.Open("s", "w1");
  EXPECT_EQ(again.incarnation(), 2u);
  EXPECT_EQ(again.applied(), 5u);
  EXPECT_EQ(again.durable(), 0u);
}

TEST_F(ObserveTest, AppliedIsAcknowledgedSoonAndDurableAfterACheckpoint) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  client.Write(RangeMessage(1, 1, 0, 10, -1, 1));
  const v1::Ack applied = client.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  EXPECT_EQ(applied.durable(), 0u);
  ASSERT_TRUE(server_.engine().Checkpoint().ok());
  const v1::Ack durable = client.ReadAck([](const v1::Ack& ack) { return ack.durable() == 1; });
  EXPECT_EQ(durable.applied(), 1u);
}

TEST_F(ObserveTest, ARepetitionIsAcknowledgedAndNotApplied) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  for (int i = 0; i < 3; ++i) client.Write(RangeMessage(1, 2, 0, 10, -1, 1));
  client.WritesDone();
  v1::Ack ack;
  EXPECT_TRUE(client.Finish(&ack).ok());
  EXPECT_EQ(ack.applied(), 2u);
  EXPECT_EQ(server_.engine().counters().updates_applied, 1u);
  EXPECT_EQ(server_.engine().counters().updates_repeated, 2u);
}

TEST_F(ObserveTest, ThousandsOfUpdatesAreAllAppliedAndAcksConflate) {
  constexpr uint64_t kUpdates = 5000;
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  for (uint64_t i = 1; i <= kUpdates; ++i) ASSERT_TRUE(client.Write(RangeMessage(i, i, 0, 1, 0, 1)));
  client.WritesDone();
  uint64_t applied = 0, acks = 0;
  while (const std::optional<v1::ObserveResponse> response = client.Read()) {
    ASSERT_TRUE(response->has_ack());
    EXPECT_GE(response->ack().applied(), applied) << "acks never go back";
    applied = response->ack().applied();
    ++acks;
  }
  EXPECT_TRUE(client.Finish().ok());
  EXPECT_EQ(applied, kUpdates);
  EXPECT_LT(acks, kUpdates / 2);
}

TEST_F(ObserveTest, IgnoredValuesAreToldInAcks) {
  v1::SetObserversEnabledRequest disable;
  disable.set_session("s");
  disable.set_pattern("range/*");
  v1::SetObserversEnabledResponse disabled;
  ASSERT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::SetObserversEnabled, disable, &disabled).ok());
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  client.Write(RangeMessage(1, 1, 0, 10, -1, 1));
  const v1::Ack ack = client.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  EXPECT_EQ(ack.values_ignored(), 10u);
}

TEST_F(ObserveTest, RawChunksAndStatisticsGiveTheSame) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/raw", "range/statistics"}));
  client.Write(RawMessage(1, 1, 0, {3, -2, 1}));
  client.Write(RangeMessage(2, 2, 1, 3, -2, 3));
  client.WritesDone();
  ASSERT_TRUE(client.Finish().ok());
  v1::GetSessionRequest request;
  request.set_session("s");
  v1::GetSessionResponse response;
  ASSERT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::GetSession, request, &response).ok());
  ASSERT_EQ(response.layer_size(), 2);
  for (const v1::LayerSummary& layer : response.layer()) {
    EXPECT_EQ(layer.count(), 3u);
    EXPECT_EQ(layer.min(), -2);
    EXPECT_EQ(layer.max(), 3);
  }
}

}  // namespace
}  // namespace calib::server
