// A fleet of simulated ranks, over a network that loses connections and a server that crashes, in simulated time:
// whatever happens, the session holds bit for bit what one process would hold that saw what the ranks counted gave, and
// every rank is told so, once.

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/step_fleet.h"
#include "tests/engine/step_model.h"
#include "tests/engine/step_tensors.h"
#include "tests/support/sample.h"

namespace calib::server::test {
namespace {

using calib::test::Rng;

constexpr uint32_t kMostRanks = 4;
constexpr uint64_t kSteps = 12;
constexpr int kActions = 220;
constexpr uint64_t kSeeds = calib::test::kSanitized ? 60 : 1000;  // of each policy
// So far off that no timer of the engine wakes up for it.
constexpr absl::Duration kDeadline = absl::Hours(1000);

class StepsSimulationTest : public EngineFixture, public testing::WithParamInterface<StragglerPolicy> {
 protected:
  StepsSimulationTest() { options_.clock = &clock_; }

  std::shared_ptr<Session> session() { return *engine_->FindSession("s"); }

  void Begin(uint64_t seed) {
    rng_.seed(seed);
    if (engine_->FindSession("s").ok()) {
      ASSERT_TRUE(engine_->DeleteSession("s").ok());
    }
    SynchronousOptions synchronous{.world_size = 1 + static_cast<uint32_t>(rng_() % kMostRanks),
                                   .straggler_policy = GetParam(),
                                   .window = 1 + static_cast<uint32_t>(rng_() % 4)};
    if (GetParam() != StragglerPolicy::kWait) synchronous.deadline = kDeadline;
    std::vector<ObserverRules::Rule> rules;
    for (const SimulatedLayer& layer : SimulatedLayers()) rules.push_back({layer.name, layer.config, layer.quant_spec});
    ASSERT_TRUE(engine_->CreateSession("s", {.rules = ObserverRules(rules), .synchronous = synchronous}).ok());
    ASSERT_TRUE(engine_->Checkpoint().ok());

    model_.emplace(synchronous);
    model_->NoteDurable();
    world_ = {.engine = engine_.get(),
              .model = &*model_,
              .clock = &clock_,
              .rng = &rng_,
              .window = synchronous.window,
              .steps = kSteps};
    // Few layers let most steps fold without counting, and go faster.
    const uint64_t share = 1 + rng_() % 4;
    for (size_t i = 0; i < SimulatedLayers().size(); ++i) world_.layers.push_back(rng_() % 4 < share);
    ranks_.clear();
    for (uint32_t rank = 0; rank < kMostRanks; ++rank) ranks_.emplace_back(rank, &world_);
  }

  void AnyAction() {
    SimulatedRank& rank = ranks_[rng_() % kMostRanks];
    const uint64_t action = rng_() % 200;
    if (action < 60) {
      rank.connected() ? rank.Contribute() : rank.Connect();
    } else if (action < 110) {
      rank.DeliverToServer();
    } else if (action < 160) {
      rank.DeliverToRank();
    } else if (action < 166) {
      if (rank.connected()) rank.Repeat();
    } else if (action < 168) {
      if (rank.connected()) rank.Stray();
    } else if (action < 174) {
      if (rank.connected()) rank.TakeAck();
    } else if (action < 178) {
      rank.Cut(rng_() % 2 == 0);
    } else if (action < 180) {
      rank.Crash(rng_() % 2 == 0);
    } else if (action < 187) {
      Checkpoint(rng_() % 4 != 0);
    } else if (action < 189) {
      Restart();
    } else if (action < 191) {
      SetWorld();
    } else if (action < 198) {
      PassTime();
    } else {
      model_->ExpectLayers(*session());
    }
  }

  void Checkpoint(bool succeeds) {
    store_.FailCommits(succeeds ? absl::OkStatus() : absl::InternalError("injected"));
    const absl::Status status = engine_->Checkpoint();
    store_.FailCommits(absl::OkStatus());
    if (!succeeds) return;
    EXPECT_TRUE(status.ok()) << status;
    model_->NoteDurable();
  }

  void Restart() {
    for (SimulatedRank& rank : ranks_) rank.Disconnect();
    Start();
    world_.engine = engine_.get();
    model_->NoteRestart();
    model_->ExpectLayers(*session());
  }

  void SetWorld() {
    const uint32_t size = 1 + static_cast<uint32_t>(rng_() % kMostRanks);
    const uint64_t wrong = model_->world_epoch() + (rng_() % 2 == 0 ? 1 : -1);
    EXPECT_EQ(GetReason(session()->SetWorld(wrong, size).status()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
    absl::StatusOr<Session::WorldChange> change = session()->SetWorld(model_->world_epoch(), size);
    ASSERT_TRUE(change.ok()) << change.status();
    model_->SetWorld(size);
    EXPECT_EQ(change->world_epoch, model_->world_epoch());
    EXPECT_EQ(change->folded_step, model_->folded_step());
    change->notices.Deliver();
  }

  void PassTime() {
    clock_.Advance(kDeadline * (rng_() % 5) / 4);
    const Session::Summary before = session()->GetSummary();
    const bool due = GetParam() == StragglerPolicy::kClosePartial && before.open_since.has_value() &&
                     clock_.Elapsed() - *before.open_since >= kDeadline && !before.missing_ranks.empty();
    // It waits for counts of ranks that have contributed.
    if (due && model_->IsOpen(before.missing_ranks.front(), model_->folded_step() + 1)) {
      model_->LeaveOut(before.missing_ranks);
    }
    Session::StepOutcome outcome = session()->ExpireSteps(clock_.Elapsed());
    outcome.notices.Deliver();
    model_->NoteExpired(clock_.Elapsed());
    const std::optional<absl::Duration> since = session()->GetSummary().open_since;
    if (GetParam() == StragglerPolicy::kWait) {
      EXPECT_FALSE(outcome.deadline.has_value());
    } else if (since.has_value()) {
      EXPECT_LT(clock_.Elapsed() - *since, kDeadline) << "a step is open beyond its deadline";
      EXPECT_EQ(outcome.deadline, *since + kDeadline);
    }
  }

  void Check() {
    model_->Follow(*session());
    for (SimulatedRank& rank : ranks_) rank.CheckAnswers();
  }

  // Without failures, and in time, all ranks get all their answers.
  void Finish() {
    for (uint32_t rank = model_->world_size(); rank < kMostRanks; ++rank) ranks_[rank].Disconnect();
    bool done = false;
    for (int round = 0; !done && round < 2000; ++round) {
      done = true;
      for (uint32_t i = 0; i < model_->world_size(); ++i) {
        SimulatedRank& rank = ranks_[i];
        if (!rank.connected()) rank.Connect();
        rank.Contribute();
        rank.DeliverToServer();
        Check();
        rank.DeliverToRank();
        done = done && rank.done();
        if (testing::Test::HasFailure()) return;
      }
    }
    EXPECT_TRUE(done) << "ranks are stuck after step " << model_->folded_step();
    EXPECT_EQ(model_->folded_step(), kSteps);
    model_->ExpectLayers(*session());
    Checkpoint(true);
    Check();
    Restart();
    Check();
  }

  SimulatedClock clock_;
  Rng rng_;
  std::optional<StepModel> model_;
  StepWorldUnderTest world_;
  std::deque<SimulatedRank> ranks_;
};

TEST_P(StepsSimulationTest, OneProcessWouldHoldTheSame) {
  Start();
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Begin(seed);
    for (int i = 0; i < kActions && !HasFailure(); ++i) {
      AnyAction();
      Check();
    }
    if (!HasFailure()) Finish();
    ranks_.clear();
    ASSERT_FALSE(HasFailure());
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, StepsSimulationTest,
                         testing::Values(StragglerPolicy::kWait, StragglerPolicy::kFail,
                                         StragglerPolicy::kClosePartial),
                         [](const testing::TestParamInfo<StragglerPolicy>& info) {
                           return info.param == StragglerPolicy::kWait   ? "Wait"
                                  : info.param == StragglerPolicy::kFail ? "Fail"
                                                                         : "ClosePartial";
                         });

}  // namespace
}  // namespace calib::server::test
