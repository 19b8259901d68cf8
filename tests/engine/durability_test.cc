// What is called durable, when, to whom; and a store that fails.

#include <atomic>
#include <limits>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

class DurabilityTest : public EngineFixture {
 protected:
  void SetUp() override { Start(); }
  static v1::ObserveRequest Unit(uint64_t unit) {
    return StatisticsRequest(unit, unit, {{0, Observe(kHistogramConfig, {1.0f, 2.0f})}});
  }
};

TEST_F(DurabilityTest, TellsExactlyTheStreamsThatGotFurther) {
  CreateSession();
  TestStream a = Open("a"), b = Open("b");
  ASSERT_TRUE(a.Send(Unit(1)).ok());
  EXPECT_EQ(a.stream->ack().applied(), 1u);
  EXPECT_EQ(a.stream->ack().durable(), 0u);
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(a.stream->ack().durable(), 1u);
  EXPECT_EQ(a.listener->durable_calls(), 1);
  EXPECT_EQ(b.listener->durable_calls(), 0);

  ASSERT_TRUE(b.Send(Unit(1)).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(a.listener->durable_calls(), 1);
  EXPECT_EQ(b.listener->durable_calls(), 1);
}

TEST_F(DurabilityTest, CommitsOnlyWhatChanged) {
  CreateSession();
  TestStream a = Open("a"), b = Open("b");
  ASSERT_TRUE(a.Send(Unit(1)).ok());
  ASSERT_TRUE(b.Send(TensorRequest(1, 1, 1, {1}, {1})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  std::vector<SessionCheckpoint> commits;
  store_.SetOnCommit([&](const SessionCheckpoint& checkpoint) { commits.push_back(checkpoint); });
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(commits.size(), 0u);
  ASSERT_TRUE(b.Send(Unit(2)).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  ASSERT_EQ(commits.size(), 1u);
  ASSERT_EQ(commits[0].workers.size(), 1u);
  EXPECT_EQ(commits[0].workers[0].id, "b");
  EXPECT_EQ(commits[0].workers[0].applied, 2u);
  ASSERT_EQ(commits[0].layers.size(), 1u);
  EXPECT_EQ(commits[0].layers[0].name, "h");
  EXPECT_THAT(commits[0].layers[0].workers, ::testing::ElementsAre(0, 1));
  EXPECT_EQ(commits[0].session.updates_applied, 3u);
}

TEST_F(DurabilityTest, WhenDurableAsksForACheckpointAndWaits) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  Event done;
  absl::StatusOr<uint64_t> updates;
  stream.stream->WhenDurable([&](absl::StatusOr<uint64_t> result) {
    updates = std::move(result);
    done.Set();
  });
  ASSERT_TRUE(done.Wait());
  EXPECT_EQ(updates.value(), 1u);
  EXPECT_EQ(stream.stream->ack().durable(), 1u);
  bool at_once = false;
  session->WhenDurable([&](absl::StatusOr<uint64_t> result) { at_once = result.ok() && *result == 1; });
  EXPECT_TRUE(at_once);
}

TEST_F(DurabilityTest, CallbacksMayCallBack) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  uint64_t durable = 0;
  stream.listener->SetOnDurable([&] {
    durable = stream.stream->ack().durable();
    EXPECT_TRUE(engine_->Checkpoint().ok());
    EXPECT_EQ(session->GetWorkers().size(), 1u);
  });
  bool deleted = false;
  session->WhenDurable([&](const absl::StatusOr<uint64_t>& result) {
    EXPECT_TRUE(result.ok());
    deleted = engine_->DeleteSession("s").ok();
  });
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(durable, 1u);
  EXPECT_TRUE(deleted);
}

TEST_F(DurabilityTest, EnoughBytesAskForACheckpoint) {
  options_.checkpoint_bytes = 1000;
  Start();
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(engine_->Checkpoint().ok());
  std::atomic<int> commits{0};
  store_.SetOnCommit([&](const SessionCheckpoint&) { ++commits; });
  Event durable;
  stream.listener->SetOnDurable([&] { durable.Set(); });
  ASSERT_TRUE(stream.Send(TensorRequest(1, 1, 0, std::vector<float>(249), {249})).ok());
  EXPECT_EQ(commits, 0);
  ASSERT_TRUE(stream.Send(TensorRequest(2, 2, 0, std::vector<float>(1), {1})).ok());
  ASSERT_TRUE(durable.Wait());
  EXPECT_EQ(stream.stream->ack().durable(), 2u);
  store_.SetOnCommit({});
}

TEST_F(DurabilityTest, IntervalMakesCheckpoints) {
  options_.checkpoint_interval = absl::Milliseconds(1);
  Start();
  CreateSession();
  TestStream stream = Open();
  Event durable;
  stream.listener->SetOnDurable([&] { durable.Set(); });
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  ASSERT_TRUE(durable.Wait());
  stream.stream->Close();
}

TEST_F(DurabilityTest, AFailedDeletionThatTookPlaceLosesNothing) {
  CreateSession();
  TestStream a = Open("a"), b = Open("b");
  ASSERT_TRUE(a.Send(Unit(1)).ok());
  ASSERT_TRUE(b.Send(TensorRequest(1, 1, 1, {1}, {1})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  // The store has deleted it when it fails.
  store_.SetOnDelete([&] {
    MemoryStore& memory = store_.memory();
    ASSERT_TRUE(memory.Delete(engine_->server_epoch(), "s").ok());
  });
  store_.FailDeletes(absl::UnavailableError("the mark could not be written"));
  EXPECT_EQ(GetReason(engine_->DeleteSession("s")), v1::ERROR_REASON_STORE_FAILED);
  store_.SetOnDelete({});
  ASSERT_TRUE(b.Send(TensorRequest(2, 2, 1, {1}, {1})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(b.stream->ack().durable(), 2u);
  const std::string after = Describe(*engine_->FindSession("s").value());
  a.stream->Close();
  b.stream->Close();
  Start();
  EXPECT_EQ(Describe(*engine_->FindSession("s").value()), after);
  EXPECT_EQ(engine_->FindSession("s").value()->GetWorkers().size(), 2u);
  EXPECT_EQ(engine_->FindSession("s").value()->GetLayer("h")->statistics, Observe(kHistogramConfig, {1.0f, 2.0f}));
}

TEST_F(DurabilityTest, AFailingStoreIsNeverAcknowledgedAndRecovers) {
  const auto session = CreateSession();
  TestStream stream = Open();
  store_.FailCommits(absl::ResourceExhaustedError("no space left"));
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  absl::StatusOr<uint64_t> waited = 0;
  session->WhenDurable([&](absl::StatusOr<uint64_t> result) { waited = std::move(result); });
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = engine_->Checkpoint();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_STORE_FAILED);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("no space left"));
    EXPECT_EQ(engine_->store_status(), status);
  }
  EXPECT_EQ(GetReason(waited.status()), v1::ERROR_REASON_STORE_FAILED);
  EXPECT_EQ(stream.stream->ack().applied(), 1u);
  EXPECT_EQ(stream.stream->ack().durable(), 0u);
  EXPECT_EQ(stream.listener->durable_calls(), 0);
  EXPECT_EQ(engine_->counters().checkpoint_failures, 2u);
  EXPECT_EQ(engine_->counters().checkpoints, 0u);
  // Ingestion goes on meanwhile.
  ASSERT_TRUE(stream.Send(Unit(2)).ok());

  store_.FailCommits(absl::OkStatus());
  EXPECT_TRUE(engine_->Checkpoint().ok());
  EXPECT_TRUE(engine_->store_status().ok());
  EXPECT_EQ(stream.stream->ack().durable(), 2u);
  EXPECT_EQ(stream.listener->durable_calls(), 1);
  const std::string stored = Describe(*session);
  stream.stream->Close();
  Start();
  EXPECT_EQ(Describe(**engine_->FindSession("s")), stored);
}

TEST_F(DurabilityTest, OneSessionsFailureHoldsUpNoOther) {
  CreateSession("a");
  CreateSession("b");
  TestStream a = Open("w", "a"), b = Open("w", "b");
  ASSERT_TRUE(a.Send(Unit(1)).ok());
  ASSERT_TRUE(b.Send(Unit(1)).ok());
  store_.SetOnCommit([&](const SessionCheckpoint& checkpoint) {
    store_.FailCommits(checkpoint.session.name == "a" ? absl::OkStatus() : absl::InternalError("bad sector"));
  });
  // Takes effect from the commit after: that of "b" is good, that of the next round's "a" is not.
  EXPECT_TRUE(engine_->Checkpoint().ok());
  store_.SetOnCommit({});
  ASSERT_TRUE(a.Send(Unit(2)).ok());
  EXPECT_FALSE(engine_->Checkpoint().ok());
  EXPECT_EQ(a.stream->ack().durable(), 1u);
  EXPECT_EQ(b.stream->ack().durable(), 1u);
  // What could not be stored and was then deleted is no failure any more.
  store_.FailCommits(absl::OkStatus());
  ASSERT_TRUE(engine_->DeleteSession("a").ok());
  EXPECT_TRUE(engine_->Checkpoint().ok());
  EXPECT_TRUE(engine_->store_status().ok());
}

TEST_F(DurabilityTest, AFailedDeletionLeavesTheSession) {
  const auto session = CreateSession();
  TestStream stream = Open();
  store_.FailDeletes(absl::UnavailableError("read-only"));
  EXPECT_EQ(GetReason(engine_->DeleteSession("s")), v1::ERROR_REASON_STORE_FAILED);
  EXPECT_TRUE(stream.Send(Unit(1)).ok());
  EXPECT_TRUE(stream.listener->end_status().ok());
  EXPECT_EQ(engine_->counters().sessions, 1);
}

TEST_F(DurabilityTest, AStoreTakenOverTakesNoMore) {
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  ASSERT_TRUE(store_.memory().Open().ok());
  EXPECT_EQ(GetReason(engine_->Checkpoint()), v1::ERROR_REASON_STORE_FAILED);
  EXPECT_EQ(GetReason(engine_->DeleteSession("s")), v1::ERROR_REASON_STORE_FAILED);
  EXPECT_EQ(stream.stream->ack().durable(), 0u);
}

// A checkpoint that begins while a deletion is at the store must not bring the session back.
TEST_F(DurabilityTest, ADeletedSessionDoesNotComeBackFromACheckpoint) {
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  std::thread checkpoint;
  store_.SetOnDelete([&] {
    EXPECT_TRUE(stream.Send(Unit(2)).ok());
    checkpoint = std::thread([&] { EXPECT_TRUE(engine_->Checkpoint().ok()); });
  });
  ASSERT_TRUE(engine_->DeleteSession("s").ok());
  checkpoint.join();
  EXPECT_EQ(store_.memory().Load()->size(), 0u);
}

// Nor one that is under way when the deletion is asked for.
TEST_F(DurabilityTest, ADeletedSessionDoesNotComeBackFromACommitUnderWay) {
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Unit(1)).ok());
  std::thread deletion;
  store_.SetOnCommit([&](const SessionCheckpoint&) {
    deletion = std::thread([&] { EXPECT_TRUE(engine_->DeleteSession("s").ok()); });
  });
  ASSERT_TRUE(engine_->Checkpoint().ok());
  deletion.join();
  EXPECT_EQ(store_.memory().Load()->size(), 0u);
  EXPECT_EQ(GetReason(stream.listener->end_status()), v1::ERROR_REASON_SESSION_DELETED);
}

}  // namespace
}  // namespace calib::server::test
