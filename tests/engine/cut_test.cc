// What a checkpoint takes and what goes on beside it: cuts without copies, commits of many sessions together, expiry.

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/synchronous_fixture.h"

namespace calib::server::test {
namespace {

using ::testing::ElementsAre;

class CutTest : public EngineFixture {
 protected:
  void SetUp() override { Start(); }
  static v1::ObserveRequest Values(uint64_t unit, const std::vector<float>& values) {
    return StatisticsRequest(unit, unit, {{0, Observe(kHistogramConfig, values)}});
  }
};

TEST_F(CutTest, StatisticsOfACutStayAsTheyWereWhileUpdatesGoOn) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Values(1, {1, 2, 3})).ok());
  const LayerStatistics before = session->GetLayer("h")->statistics;
  int commits = 0;
  store_.SetOnCommit([&](const SessionCheckpoint& checkpoint) {
    if (++commits > 1) return;
    ASSERT_EQ(checkpoint.layers.size(), 1u);
    EXPECT_EQ(*checkpoint.layers[0].statistics, before);
    // In the middle of the commit; twice, so that a second change finds the copy that the first one made.
    ASSERT_TRUE(stream.Send(Values(2, {-4})).ok());
    ASSERT_TRUE(stream.Send(Values(3, {-5})).ok());
    EXPECT_EQ(*checkpoint.layers[0].statistics, before);
    EXPECT_EQ(checkpoint.workers[0].applied, 1u);
  });
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(stream.stream->ack().durable(), 1u);
  EXPECT_EQ(stream.stream->ack().applied(), 3u);
  EXPECT_EQ(session->GetLayer("h")->statistics, Observe(kHistogramConfig, {1, 2, 3, -4, -5}));
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(commits, 2);
  store_.SetOnCommit({});
  stream.stream->Close();
  Start();
  EXPECT_EQ(engine_->FindSession("s").value()->GetLayer("h")->statistics, Observe(kHistogramConfig, {1, 2, 3, -4, -5}));
}

TEST_F(CutTest, WhatIsLoadedFromTheStoreIsNotChangedInIt) {
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Values(1, {1, 2})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  stream.stream->Close();
  Start();
  stream = Open();
  ASSERT_TRUE(stream.Send(Values(2, {3})).ok());
  EXPECT_EQ(*store_.memory().Load()->at(0).layers[0].statistics, Observe(kHistogramConfig, {1, 2}));
  EXPECT_EQ(engine_->FindSession("s").value()->GetLayer("h")->statistics, Observe(kHistogramConfig, {1, 2, 3}));
}

TEST_F(CutTest, AFailedCommitLeavesTheStatisticsToBeChangedInPlace) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Values(1, {1})).ok());
  store_.FailCommits(absl::UnavailableError("away"));
  EXPECT_FALSE(engine_->Checkpoint().ok());
  ASSERT_TRUE(stream.Send(Values(2, {2})).ok());
  store_.FailCommits(absl::OkStatus());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(stream.stream->ack().durable(), 2u);
  EXPECT_EQ(*store_.memory().Load()->at(0).layers[0].statistics, Observe(kHistogramConfig, {1, 2}));
}

// Counts how many sessions each commit had.
class CountingStore : public TestStore {
 public:
  CountingStore(StoreControl* control, std::vector<size_t>* commits) : TestStore(control), commits_(commits) {}
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override {
    commits_->push_back(checkpoints.size());
    return TestStore::Commit(epoch, std::move(checkpoints));
  }

 private:
  std::vector<size_t>* const commits_;
};

TEST_F(CutTest, SessionsAreCommittedTogether) {
  std::vector<size_t> commits;
  engine_ = Engine::Create(options_, std::make_unique<CountingStore>(&store_, &commits)).value();
  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 20; ++i) sessions.push_back(CreateSession(absl::StrCat("s", i)));
  int served = 0;
  for (const auto& session : sessions) session->WhenDurable([&](const auto& result) { served += result.ok(); });
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_THAT(commits, ElementsAre(20));
  EXPECT_EQ(served, 20);
  ASSERT_TRUE(engine_->Checkpoint().ok());  // nothing changed
  EXPECT_THAT(commits, ElementsAre(20));

  // All of them fail together, each naming itself, and are tried again.
  store_.FailCommits(absl::ResourceExhaustedError("no space left"));
  std::map<std::string, absl::Status> failed;
  for (const auto& session : sessions) {
    ASSERT_TRUE(session->SetEnabled("x", false).ok());
    session->WhenDurable([&, name = session->name()](const auto& result) { failed[name] = result.status(); });
  }
  EXPECT_FALSE(engine_->Checkpoint().ok());
  EXPECT_EQ(failed.size(), 20u);
  for (const auto& [name, status] : failed) {
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_STORE_FAILED);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("\"" + name + "\""));
  }
  EXPECT_FALSE(engine_->store_status().ok());
  store_.FailCommits(absl::OkStatus());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_TRUE(engine_->store_status().ok());
  EXPECT_THAT(commits, ElementsAre(20, 20, 20));
  engine_.reset();  // before the vector
}

TEST_F(CutTest, IdleSessionsExpire) {
  ManualClock clock;
  options_.clock = &clock;
  options_.session_expiry = absl::Hours(24);
  Start();
  CreateSession("idle");
  CreateSession("watched");
  const auto busy = CreateSession("busy");
  ASSERT_TRUE(engine_->Checkpoint().ok());
  TestStream watched = Open("w", "watched");
  ASSERT_TRUE(engine_->Checkpoint().ok());

  clock.Advance(absl::Hours(23));
  ASSERT_TRUE(busy->SetEnabled("x", false).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  clock.Advance(absl::Hours(1));
  ASSERT_TRUE(engine_->ExpireSessions().ok());
  EXPECT_EQ(GetReason(engine_->FindSession("idle").status()), v1::ERROR_REASON_SESSION_NOT_FOUND);
  EXPECT_TRUE(engine_->FindSession("watched").ok());
  EXPECT_TRUE(engine_->FindSession("busy").ok());
  EXPECT_EQ(store_.memory().Load()->size(), 2u);
  EXPECT_EQ(engine_->counters().sessions_expired, 1u);

  // What changed and is not durable does not expire, and a store that fails keeps what is due.
  watched.stream->Close();
  clock.Advance(absl::Hours(24));
  ASSERT_TRUE(busy->SetEnabled("y", false).ok());
  store_.FailDeletes(absl::UnavailableError("away"));
  EXPECT_EQ(GetReason(engine_->ExpireSessions()), v1::ERROR_REASON_STORE_FAILED);
  EXPECT_TRUE(engine_->FindSession("watched").ok());
  store_.FailDeletes(absl::OkStatus());
  ASSERT_TRUE(engine_->Checkpoint().ok());  // all of it, for the store may have lost it
  ASSERT_TRUE(engine_->ExpireSessions().ok());
  EXPECT_FALSE(engine_->FindSession("watched").ok());
  EXPECT_TRUE(engine_->FindSession("busy").ok());

  // The time of the last change is durable.
  Start();
  clock.Advance(absl::Hours(23));
  ASSERT_TRUE(engine_->ExpireSessions().ok());
  EXPECT_TRUE(engine_->FindSession("busy").ok());
  clock.Advance(absl::Hours(1));
  ASSERT_TRUE(engine_->ExpireSessions().ok());
  EXPECT_FALSE(engine_->FindSession("busy").ok());
  engine_.reset();  // before the clock
}

TEST_F(CutTest, TheCheckpointerExpiresSessions) {
  ManualClock clock;
  options_.clock = &clock;
  options_.session_expiry = absl::Seconds(1);
  Start();
  CreateSession("s");
  ASSERT_TRUE(engine_->Checkpoint().ok());
  clock.Advance(absl::Seconds(1));
  Event deleted;
  store_.SetOnDelete([&] { deleted.Set(); });
  CreateSession("other");
  engine_->WhenDurable(engine_->FindSession("other").value(), [](const auto&) {});
  EXPECT_TRUE(deleted.Wait());
  store_.SetOnDelete({});
  engine_.reset();
}

TEST_F(CutTest, AWorkerThatWasToldMoreThanTheStoreHasMakesTheSessionIncomplete) {
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Values(1, {1})).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_FALSE(session->IsIncomplete());
  const auto open = [&](uint64_t durable) {
    v1::Open message;
    message.set_session("s");
    message.set_worker_id("w");
    message.set_durable(durable);
    return ObserveStream::Open(engine_.get(), message, std::make_shared<TestListener>()).value();
  };
  EXPECT_EQ(open(1)->welcome().applied(), 1u);
  EXPECT_FALSE(session->IsIncomplete());
  EXPECT_EQ(open(7)->welcome().applied(), 1u);
  EXPECT_EQ(open(5)->welcome().durable(), 1u);
  EXPECT_TRUE(session->IsIncomplete());
  EXPECT_EQ(session->GetWorkers()[0].record.lost, 7u);
  ASSERT_TRUE(engine_->Checkpoint().ok());
  stream.stream->Close();
  Start();
  EXPECT_TRUE(engine_->FindSession("s").value()->GetSummary().incomplete);
}

}  // namespace
}  // namespace calib::server::test
