// Sessions and streams from creation to deletion, sealing, draining and switched-off observers.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

using ::testing::ElementsAre;

LayerStatistics Two() { return Observe(kHistogramConfig, {0.5f, -2.0f}); }

class LifecycleTest : public EngineFixture {
 protected:
  void SetUp() override { Start(); }
  absl::Status TryOpen(const std::string& worker, const std::string& session = "s", const std::string& display = "") {
    v1::Open open;
    open.set_session(session);
    open.set_worker_id(worker);
    open.set_display_name(display);
    return ObserveStream::Open(engine_.get(), open, std::make_shared<TestListener>()).status();
  }
};

TEST_F(LifecycleTest, CreateIsIdempotentForAnEqualConfig) {
  const auto first = engine_->CreateSession("s", TestConfig());
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->created);
  const auto second = engine_->CreateSession("s", TestConfig());
  ASSERT_TRUE(second.ok());
  EXPECT_FALSE(second->created);
  EXPECT_EQ(second->session, first->session);
  EXPECT_EQ(GetReason(engine_->CreateSession("s", SessionConfig()).status()), v1::ERROR_REASON_SESSION_CONFIG_MISMATCH);
  EXPECT_EQ(engine_->counters().sessions, 1);
}

TEST_F(LifecycleTest, NamesAreChecked) {
  for (const std::string& name : {std::string("a"), std::string("9.x_Y-z"), std::string(128, 'a')}) {
    EXPECT_TRUE(engine_->CreateSession(name, TestConfig()).ok()) << name;
  }
  for (const std::string& name : {std::string(), std::string(129, 'a'), std::string(".a"), std::string("a/b"),
                                  std::string("\xc3\xa9"), std::string("a\0b", 3)}) {
    EXPECT_EQ(GetReason(engine_->CreateSession(name, TestConfig()).status()), v1::ERROR_REASON_INVALID_FIELD) << name;
  }
  const auto session = CreateSession();
  EXPECT_TRUE(TryOpen("0123-abc-XYZ", "s", std::string(128, 'x')).ok());
  EXPECT_TRUE(TryOpen(std::string(64, 'a')).ok());
  for (const std::string& id : {std::string(), std::string(65, 'a'), std::string("a_b"), std::string("\xc3\xa9")}) {
    const absl::Status status = TryOpen(id);
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << id;
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), "worker_id");
  }
  EXPECT_EQ(GetReason(TryOpen("w", "s", std::string(129, 'x'))), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(GetReason(TryOpen("w", "s", "\xff")), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(GetReason(TryOpen("w", "nowhere")), v1::ERROR_REASON_SESSION_NOT_FOUND);
  EXPECT_EQ(session->GetSummary().worker_count, 2u);
  EXPECT_EQ(engine_->counters().streams, 0);
}

TEST_F(LifecycleTest, WelcomeHasTheWholeConfig) {
  CreateSession();
  const TestStream stream = Open();
  const v1::Welcome& welcome = stream.stream->welcome();
  EXPECT_EQ(welcome.server_epoch(), engine_->server_epoch());
  EXPECT_EQ(welcome.config().SerializeAsString(), EncodeSessionConfig(TestConfig()).SerializeAsString());
}

TEST_F(LifecycleTest, ListsInPages) {
  for (const std::string name : {"c", "a", "b"}) CreateSession(name);
  const auto names = [&](const std::string& after, size_t limit) {
    std::vector<std::string> listed;
    for (const auto& session : engine_->ListSessions(after, limit)) listed.push_back(session->name());
    return listed;
  };
  EXPECT_THAT(names("", 2), ElementsAre("a", "b"));
  EXPECT_THAT(names("b", 2), ElementsAre("c"));

  const auto session = *engine_->FindSession("a");
  TestStream stream = Open("w", "a");
  ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  const uint64_t version = session->GetSummary().version;
  ASSERT_TRUE(stream.Send(TensorRequest(2, 2, 1, {7}, {1})).ok());
  EXPECT_THAT(session->ListLayers("*", "", 10), ElementsAre("h", "minmax"));
  EXPECT_THAT(session->ListLayers("*", "", 1), ElementsAre("h"));
  EXPECT_THAT(session->ListLayers("*", "h", 10), ElementsAre("minmax"));
  EXPECT_THAT(session->ListLayers("h*", "", 10), ElementsAre("h"));
  EXPECT_THAT(session->ListLayers("*", "", 10, version), ElementsAre("minmax"));
  EXPECT_EQ(GetReason(session->GetLayer("nothing").status()), v1::ERROR_REASON_LAYER_NOT_FOUND);
}

TEST_F(LifecycleTest, RawChunksEqualStatistics) {
  const auto session = CreateSession();
  TestStream stream = Open();
  const std::vector<float> values = {1, -2, 3, 0.25f, 5e20f, -6};
  for (uint32_t i = 0; i < 6; i += 2) {
    v1::ObserveRequest chunk = TensorRequest(i / 2 + 1, i / 2 + 1, 2, {values[i], values[i + 1]}, {2, 3});
    chunk.mutable_update()->mutable_tensor()->set_offset(i);
    chunk.mutable_update()->mutable_tensor()->set_channel_axis(-2);
    ASSERT_TRUE(stream.Send(chunk).ok());
  }
  EXPECT_EQ(session->GetLayer("channels")->statistics.channels(), Observe(kChannelsConfig, values, {2, 3}).channels());
  EXPECT_EQ(engine_->counters().raw_bytes, 24u);
  EXPECT_EQ(engine_->counters().values_observed, 6u);
}

TEST_F(LifecycleTest, SealRefusesUpdatesButKnowsRepetitions) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  ASSERT_TRUE(Seal(session.get()).ok());
  ASSERT_TRUE(Seal(session.get()).ok());
  const std::string before = Describe(*session);
  EXPECT_EQ(GetReason(stream.Send(StatisticsRequest(2, 2, {{0, Two()}}))), v1::ERROR_REASON_SESSION_SEALED);
  EXPECT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  EXPECT_EQ(GetReason(session->SetEnabled("*", false).status()), v1::ERROR_REASON_SESSION_SEALED);
  EXPECT_EQ(Describe(*session), before);
  EXPECT_EQ(Open("late").stream->welcome().applied(), 0u);

  ASSERT_TRUE(engine_->Checkpoint().ok());
  stream.stream->Close();
  Start();
  EXPECT_TRUE((*engine_->FindSession("s"))->GetSummary().record.sealed);
}

TEST_F(LifecycleTest, DrainRefusesTheNewAndTellsTheOpen) {
  CreateSession();
  TestStream stream = Open();
  const auto closed = Open("gone").listener;
  engine_->BeginDrain();
  engine_->BeginDrain();
  EXPECT_EQ(stream.listener->drain_calls(), 1);
  EXPECT_EQ(closed->drain_calls(), 0);
  EXPECT_EQ(GetReason(TryOpen("w2")), v1::ERROR_REASON_SERVER_DRAINING);
  EXPECT_EQ(GetReason(engine_->CreateSession("t", TestConfig()).status()), v1::ERROR_REASON_SERVER_DRAINING);
  EXPECT_TRUE(engine_->CreateSession("s", TestConfig()).ok());
  EXPECT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  EXPECT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(stream.stream->ack().durable(), 1u);
}

TEST_F(LifecycleTest, DisabledLayersCountNothing) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  EXPECT_EQ(session->SetEnabled("h", false).value(), 1u);
  EXPECT_EQ(session->SetEnabled("channels*", false).value(), 0u);
  const auto before = session->GetLayer("h");
  EXPECT_FALSE(before->enabled);

  ASSERT_TRUE(stream.Send(StatisticsRequest(2, 2, {{0, Two()}, {1, Observe(kMinMaxConfig, {1})}})).ok());
  EXPECT_EQ(session->GetLayer("h")->statistics.channels(), before->statistics.channels());
  EXPECT_EQ(stream.stream->ack().values_ignored(), 2u);
  // All layers of these are disabled; they are applied all the same, and make no layer.
  ASSERT_TRUE(stream.Send(StatisticsRequest(3, 3, {{0, Two()}})).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(4, 4, 2, {1, 2, 3}, {3})).ok());
  EXPECT_EQ(stream.stream->ack().applied(), 4u);
  EXPECT_EQ(stream.stream->ack().values_ignored(), 7u);
  EXPECT_EQ(Open("other").stream->ack().values_ignored(), 0u);
  EXPECT_EQ(session->GetSummary().record.values_ignored, 7u);
  EXPECT_EQ(session->GetSummary().values, 3u);
  EXPECT_EQ(session->GetSummary().layer_count, 2u);
  EXPECT_EQ(engine_->counters().values_ignored, 7u);

  // The last one that matches decides, after a restart too, and for layers not seen yet.
  EXPECT_EQ(session->SetEnabled("*", false).value(), 2u);
  EXPECT_EQ(session->SetEnabled("?", true).value(), 1u);
  EXPECT_EQ(GetReason(session->SetEnabled("", true).status()), v1::ERROR_REASON_INVALID_FIELD);
  ASSERT_TRUE(engine_->Checkpoint().ok());
  stream.stream->Close();
  Start();
  const auto reloaded = *engine_->FindSession("s");
  EXPECT_TRUE(reloaded->GetLayer("h")->enabled);
  EXPECT_FALSE(reloaded->GetLayer("minmax")->enabled);
  EXPECT_EQ(reloaded->GetSummary().record.values_ignored, 7u);
  TestStream again = Open();
  ASSERT_TRUE(again.Send(RegisterRequest(4, {"x", "xx"})).ok());
  ASSERT_TRUE(again.Send(StatisticsRequest(5, 5, {{4, Two()}, {5, Two()}})).ok());
  EXPECT_THAT(reloaded->ListLayers("x*", "", 9), ElementsAre("x"));
  EXPECT_EQ(again.stream->ack().values_ignored(), 2u);
}

TEST_F(LifecycleTest, DeleteEndsStreamsWaitersAndFreesMemory) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Two()}})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(engine_->counters().layers, 1);
  EXPECT_GT(engine_->counters().state_bytes, 0);
  ASSERT_TRUE(stream.Send(StatisticsRequest(2, 2, {{0, Two()}})).ok());
  absl::StatusOr<uint64_t> waited = 0;
  session->WhenDurable([&](absl::StatusOr<uint64_t> updates) { waited = std::move(updates); });

  ASSERT_TRUE(engine_->DeleteSession("s").ok());
  EXPECT_EQ(GetReason(stream.listener->end_status()), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_EQ(GetReason(waited.status()), v1::ERROR_REASON_SESSION_DELETED);
  const absl::Status late = stream.Send(StatisticsRequest(3, 3, {{0, Two()}}));
  EXPECT_EQ(GetReason(late), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_TRUE(ObserveStream::EndsStream(late));
  EXPECT_EQ(GetReason(Seal(session.get())), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_EQ(GetReason(session->SetEnabled("*", true).status()), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_EQ(GetReason(session->GetLayer("h").status()), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_TRUE(session->GetSummary().deleted);
  session->WhenDurable([&](absl::StatusOr<uint64_t> updates) { waited = std::move(updates); });
  EXPECT_EQ(GetReason(waited.status()), v1::ERROR_REASON_SESSION_DELETED);

  EXPECT_EQ(GetReason(engine_->FindSession("s").status()), v1::ERROR_REASON_SESSION_NOT_FOUND);
  EXPECT_EQ(GetReason(engine_->DeleteSession("s")), v1::ERROR_REASON_SESSION_NOT_FOUND);
  EXPECT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(store_.memory().Load()->size(), 0u);
  stream.stream->Close();
  EXPECT_EQ(engine_->counters().sessions, 0);
  EXPECT_EQ(engine_->counters().layers, 0);
  EXPECT_EQ(engine_->counters().state_bytes, 0);
  EXPECT_EQ(engine_->counters().streams, 0);

  // Another session of the same name starts from nothing.
  EXPECT_TRUE(engine_->CreateSession("s", SessionConfig())->created);
  EXPECT_EQ(Open().stream->welcome().applied(), 0u);
}

}  // namespace
}  // namespace calib::server::test
