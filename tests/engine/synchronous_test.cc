// Synchronous steps: contributions in any order, repetitions, stragglers, worlds, restarts.

#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/synchronous_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::server::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint32_t kEma = 1;
constexpr uint32_t kMegengine = 4;
constexpr uint32_t kLearned = 6;

class SynchronousTest : public SynchronousFixture {
 protected:
  static RankStep Ema(std::vector<float> values) { return {{{kEma, std::move(values)}}}; }
  absl::Status Give(TestStream* stream, uint64_t step, const RankStep& observed, uint64_t epoch = 1) {
    return stream->Send(Contribution(epoch, step, observed));
  }
  v1::ErrorReason ReasonOf(const absl::Status& status) { return GetReason(status); }
  static EmaRange EmaOf(const Session& session) {
    return session.GetLayer("ema")->statistics.channels().at(0).ema.value();
  }
};

TEST_F(SynchronousTest, AStepFoldsOnceAllRanksAreIn) {
  const auto session = CreateSynchronous({.world_size = 3});
  std::vector<TestStream> ranks;
  for (uint32_t rank = 0; rank < 3; ++rank) ranks.push_back(OpenRank(rank));
  EXPECT_EQ(ranks[0].stream->welcome().world().size(), 3u);
  EXPECT_EQ(ranks[0].stream->welcome().world().epoch(), 1u);
  ASSERT_TRUE(Give(&ranks[2], 1, Ema({-4, 2})).ok());
  ASSERT_TRUE(Give(&ranks[0], 1, Ema({1, 7})).ok());
  for (TestStream& rank : ranks) EXPECT_THAT(Told(&rank), IsEmpty());
  EXPECT_THAT(session->GetSummary().missing_ranks, ElementsAre(1));
  EXPECT_EQ(session->GetSummary().open_steps, 1u);
  ASSERT_TRUE(Give(&ranks[1], 1, Ema({0, 0.5f})).ok());
  for (TestStream& rank : ranks) {
    const auto told = Told(&rank);
    ASSERT_THAT(told, SizeIs(1));
    const v1::StepResult& result = told[0].step_result();
    EXPECT_EQ(result.step(), 1u);
    EXPECT_EQ(result.ranks(), 3u);
    EXPECT_EQ(result.world_size(), 3u);
    EXPECT_TRUE(result.counted());
    EXPECT_THAT(result.step_min(), ElementsAre(-4));
    EXPECT_THAT(result.step_max(), ElementsAre(7));
    EXPECT_THAT(result.min(), ElementsAre(-4));
    EXPECT_THAT(result.max(), ElementsAre(7));
    EXPECT_THAT(result.scale(), ElementsAre(7 / 127.5f));
    EXPECT_THAT(result.zero_point(), ElementsAre(0));
  }
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 1u);
  EXPECT_EQ(session->GetSummary().values, 6u);
  EXPECT_EQ(session->GetLayer("ema")->workers, 3u);
}

// Pipelined steps fold in their order, however they come, and give what one process over all the data gives.
TEST_F(SynchronousTest, TheOrderOfArrivalDecidesNothing) {
  constexpr uint32_t kRanks = 4;
  constexpr uint64_t kSteps = 12;
  const auto values_of = [](uint64_t step, uint32_t rank, uint32_t handle) {
    calib::test::Rng rng(step * 100 + rank * 10 + handle);
    std::vector<float> values(8);
    for (float& value : values)
      value = (static_cast<float>(rng() % 2001) - 900) / 128 * static_cast<float>(1 + step / 3);
    return values;
  };
  const auto step_of = [&](uint64_t step, uint32_t rank) {
    RankStep observed;
    for (uint32_t handle = 0; handle < SynchronousLayers().size(); ++handle) {
      // Some rank leaves some layer out now and then.
      if ((step + rank + handle) % 7 == 3) continue;
      observed.tensors.push_back({handle, values_of(step, rank, handle)});
    }
    return observed;
  };
  std::string expected;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    calib::test::Rng rng(seed);
    const std::string name = absl::StrCat("s", seed);
    const auto session = CreateSynchronous({.world_size = kRanks, .window = 3}, name);
    std::vector<TestStream> ranks;
    for (uint32_t rank = 0; rank < kRanks; ++rank) ranks.push_back(OpenRank(rank, "", name));
    std::vector<uint64_t> next(kRanks, 1), answered(kRanks, 0);
    while (*std::min_element(answered.begin(), answered.end()) < kSteps) {
      const uint32_t rank = rng() % kRanks;
      if (next[rank] <= kSteps && next[rank] <= answered[rank] + 3 && rng() % 3 != 0) {
        ASSERT_TRUE(Give(&ranks[rank], next[rank], step_of(next[rank], rank)).ok());
        ++next[rank];
      }
      for (const v1::ObserveResponse& message : Told(&ranks[rank])) {
        if (message.has_step_grids()) {
          const v1::StepGrids& grids = message.step_grids();
          ASSERT_TRUE(ranks[rank].Send(Counts(grids, step_of(grids.step(), rank))).ok());
        } else {
          ASSERT_TRUE(message.has_step_result()) << message.ShortDebugString();
          EXPECT_EQ(message.step_result().step(), ++answered[rank]);
        }
      }
    }
    std::string described = Describe(*session);
    described.erase(0, described.find('\n'));  // its name
    if (seed == 0) expected = described;
    EXPECT_EQ(described, expected) << seed;
  }
  // One process over the union, for the moving average.
  const EmaRange average = EmaOf(**engine_->FindSession("s0"));
  EmaRange oracle;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    Range range;
    for (uint32_t rank = 0; rank < kRanks; ++rank) {
      if ((step + rank + kEma) % 7 == 3) continue;
      for (const float value : values_of(step, rank, kEma)) {
        range.min = range.count == 0 ? value : std::min(range.min, value);
        range.max = range.count == 0 ? value : std::max(range.max, value);
        ++range.count;
      }
    }
    oracle.Fold(kEmaConfig.ema, range);
  }
  EXPECT_EQ(average, oracle);
}

TEST_F(SynchronousTest, ARepeatedStepIsAnsweredAndNotCountedTwice) {
  const auto session = CreateSynchronous({.world_size = 2, .window = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  ASSERT_TRUE(Give(&first, 1, Ema({1, 2})).ok());
  // The rank restarts, as another worker, before the step is folded, and after.
  TestStream again = OpenRank(0, "rank-0-again");
  EXPECT_EQ(ReasonOf(first.listener->end_status()), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_EQ(ReasonOf(Give(&first, 1, Ema({9, 9}))), v1::ERROR_REASON_WORKER_FENCED);
  ASSERT_TRUE(Give(&again, 1, Ema({1, 2})).ok());
  ASSERT_TRUE(Give(&second, 1, Ema({3})).ok());
  EXPECT_THAT(Told(&again), SizeIs(1));
  const std::string before = Describe(*session);
  EXPECT_EQ(Describe(*session), before);
  TestStream third = OpenRank(0, "rank-0-third");
  EXPECT_EQ(third.stream->welcome().folded_step(), 1u);
  ASSERT_TRUE(Give(&third, 1, Ema({1, 2})).ok());
  const auto told = Told(&third);
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_TRUE(told[0].step_result().counted());
  EXPECT_THAT(told[0].step_result().max(), ElementsAre(3));
  EXPECT_EQ(EmaOf(*session), (EmaRange{1, 3, 1}));
  EXPECT_EQ(session->GetLayer("ema")->statistics.channels()[0].range.count, 3u);
  EXPECT_EQ(session->GetSummary().record.steps.repeated_contributions, 2u);
  // Results are kept for as many steps as the window has.
  for (uint64_t step = 2; step <= 4; ++step) {
    ASSERT_TRUE(Give(&third, step, Ema({1})).ok());
    ASSERT_TRUE(Give(&second, step, Ema({1})).ok());
  }
  const absl::Status old = Give(&second, 2, Ema({1}));
  EXPECT_EQ(ReasonOf(old), v1::ERROR_REASON_STEP_OUT_OF_WINDOW) << old;
  EXPECT_TRUE(Give(&second, 3, Ema({1})).ok());
  EXPECT_EQ(ReasonOf(Give(&second, 7, Ema({1}))), v1::ERROR_REASON_STEP_OUT_OF_WINDOW);
  EXPECT_EQ(ReasonOf(Give(&second, 0, Ema({1}))), v1::ERROR_REASON_STEP_OUT_OF_WINDOW);
}

TEST_F(SynchronousTest, WhatARankGivesAgainToAnOpenStepReplacesTheOld) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  const RankStep wide{{{kMegengine, {-10, 10, 3}}}}, narrow{{{kMegengine, {-1, 1, 0.5f, 0.25f}}}};
  ASSERT_TRUE(Give(&first, 1, wide).ok());
  ASSERT_TRUE(Give(&second, 1, narrow).ok());
  const auto grids = Told(&first);
  ASSERT_THAT(grids, SizeIs(1));
  ASSERT_TRUE(second.Send(Counts(Told(&second)[0].step_grids(), narrow)).ok());
  // In the middle of the counting the first rank restarts and has other data: new grids for both.
  TestStream again = OpenRank(0);
  ASSERT_TRUE(Give(&again, 1, narrow).ok());
  const auto new_grids = Told(&again), other_grids = Told(&second);
  ASSERT_THAT(new_grids, SizeIs(1));
  ASSERT_THAT(other_grids, SizeIs(1));
  EXPECT_LT(new_grids[0].step_grids().grid(0).high(), grids[0].step_grids().grid(0).high());
  ASSERT_TRUE(again.Send(Counts(new_grids[0].step_grids(), narrow)).ok());
  // Counts that were on their way when the grids changed are passed over.
  EXPECT_TRUE(second.Send(Counts(grids[0].step_grids(), narrow)).ok());
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 0u);
  ASSERT_TRUE(second.Send(Counts(other_grids[0].step_grids(), narrow)).ok());
  EXPECT_THAT(Told(&second), SizeIs(1));
  EXPECT_EQ(session->GetLayer("megengine")->statistics.channels()[0].range.count, 8u);
  EXPECT_EQ(session->GetLayer("megengine")->statistics.channels()[0].range.max, 1);
}

TEST_F(SynchronousTest, WaitHoldsAStepAndSaysWhoIsMissing) {
  const auto session = CreateSynchronous({.world_size = 4});
  TestStream first = OpenRank(0), third = OpenRank(2);
  ASSERT_TRUE(Give(&first, 1, Ema({1})).ok());
  ASSERT_TRUE(Give(&third, 1, Ema({1})).ok());
  clock_.Advance(absl::Hours(100));
  Expire(session.get());
  EXPECT_THAT(Told(&first), IsEmpty());
  const Session::Summary summary = session->GetSummary();
  EXPECT_THAT(summary.missing_ranks, ElementsAre(1, 3));
  EXPECT_EQ(clock_.Elapsed() - *summary.open_since, absl::Hours(100));
  EXPECT_EQ(session->GetWorkers()[0].rank, 0u);
  EXPECT_EQ(session->GetWorkers()[0].step, 1u);
  // Memory is bounded by the window.
  for (uint64_t step = 2; step <= 16; ++step) ASSERT_TRUE(Give(&first, step, Ema({1})).ok());
  EXPECT_EQ(ReasonOf(Give(&first, 17, Ema({1}))), v1::ERROR_REASON_STEP_OUT_OF_WINDOW);
}

TEST_F(SynchronousTest, FailEndsOpenStepsForAllAtTheDeadline) {
  const auto session =
      CreateSynchronous({.world_size = 3, .straggler_policy = StragglerPolicy::kFail, .deadline = absl::Seconds(10)});
  TestStream first = OpenRank(0), second = OpenRank(1);
  ASSERT_TRUE(Give(&first, 1, Ema({1})).ok());
  ASSERT_TRUE(Give(&first, 2, Ema({2})).ok());
  clock_.Advance(absl::Seconds(4));
  ASSERT_TRUE(Give(&second, 1, Ema({1})).ok());
  clock_.Advance(absl::Seconds(6) - absl::Milliseconds(1));
  Expire(session.get());
  EXPECT_THAT(Told(&first), IsEmpty());
  clock_.Advance(absl::Milliseconds(1));
  Expire(session.get());
  const auto told = Told(&first);
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_EQ(told[0].refusal().step(), 1u);
  EXPECT_EQ(told[0].refusal().code(), static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(told[0].refusal().info().reason(), "STEP_TIMED_OUT");
  EXPECT_THAT(told[0].refusal().message(), HasSubstr("rank 2 of 3 did not contribute within 10s"));
  EXPECT_EQ(told[1].refusal().step(), 2u);
  EXPECT_THAT(Told(&second), SizeIs(1));
  EXPECT_EQ(session->GetSummary().record.steps.failed_steps, 1u);
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 0u);
  EXPECT_EQ(session->GetSummary().values, 0u);
  // All three come again: the step folds, with a deadline of its own.
  TestStream third = OpenRank(2);
  clock_.Advance(absl::Seconds(60));
  for (TestStream* rank : {&third, &first, &second}) ASSERT_TRUE(Give(rank, 1, Ema({1})).ok());
  EXPECT_TRUE(Told(&third).at(0).has_step_result());
}

TEST_F(SynchronousTest, ClosePartialGoesOnAndCountsIt) {
  const auto session = CreateSynchronous(
      {.world_size = 3, .straggler_policy = StragglerPolicy::kClosePartial, .deadline = absl::Seconds(10)});
  TestStream first = OpenRank(0), second = OpenRank(1), third = OpenRank(2);
  ASSERT_TRUE(Give(&first, 1, Ema({-1, 1})).ok());
  ASSERT_TRUE(Give(&second, 1, Ema({5})).ok());
  ASSERT_TRUE(Give(&first, 2, Ema({3})).ok());
  clock_.Advance(absl::Seconds(10));
  Expire(session.get());
  const auto told = Told(&first);
  ASSERT_THAT(told, SizeIs(2));  // step 2 has waited as long
  EXPECT_EQ(told[0].step_result().ranks(), 2u);
  EXPECT_EQ(told[0].step_result().world_size(), 3u);
  EXPECT_THAT(told[0].step_result().max(), ElementsAre(5));
  EXPECT_EQ(session->GetSummary().record.steps.partial_steps, 2u);
  // The late rank is answered and not counted.
  ASSERT_TRUE(Give(&third, 1, Ema({100})).ok());
  const auto late = Told(&third);
  ASSERT_THAT(late, SizeIs(1));
  EXPECT_FALSE(late[0].step_result().counted());
  EXPECT_THAT(late[0].step_result().max(), ElementsAre(5));
  EXPECT_EQ(session->GetSummary().record.steps.late_contributions, 1u);
  EXPECT_EQ(session->GetLayer("ema")->statistics.channels()[0].range.max, 5);
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 2u);
}

TEST_F(SynchronousTest, AStepWithoutSomeCountsClosesPartially) {
  const auto session = CreateSynchronous(
      {.world_size = 2, .straggler_policy = StragglerPolicy::kClosePartial, .deadline = absl::Seconds(1)});
  TestStream first = OpenRank(0), second = OpenRank(1);
  const RankStep data{{{kMegengine, {-2, 1, 2}}}}, wide{{{kMegengine, {-20, 1, 20}}}};
  ASSERT_TRUE(Give(&first, 1, data).ok());
  ASSERT_TRUE(Give(&second, 1, wide).ok());
  ASSERT_TRUE(first.Send(Counts(Told(&first)[0].step_grids(), data)).ok());
  EXPECT_THAT(session->GetSummary().missing_ranks, ElementsAre(1));
  clock_.Advance(absl::Seconds(1));
  Expire(session.get());
  // The grids are made anew without the rank that did not count, so that its range leaves no trace.
  const auto told = Told(&first);
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].step_grids().grid(0).high(), 2);
  ASSERT_TRUE(first.Send(Counts(told[0].step_grids(), data)).ok());
  EXPECT_TRUE(Told(&first).at(0).step_result().counted());
  const auto left_out = Told(&second);
  EXPECT_FALSE(left_out.back().step_result().counted());
  EXPECT_EQ(session->GetSummary().record.steps.partial_steps, 1u);
  EXPECT_EQ(session->GetSummary().record.steps.late_contributions, 1u);
  const auto layer = session->GetLayer("megengine");
  double counted = 0;
  for (const double count : layer->statistics.channels()[0].reference->counts()) counted += count;
  EXPECT_EQ(counted, 3);
}

TEST_F(SynchronousTest, ANewWorldDropsOpenStepsAndGoesOn) {
  const auto session = CreateSynchronous({.world_size = 3});
  TestStream first = OpenRank(0), second = OpenRank(1);
  ASSERT_TRUE(Give(&first, 1, Ema({50})).ok());
  ASSERT_TRUE(Give(&first, 2, Ema({60})).ok());
  EXPECT_EQ(ReasonOf(session->SetWorld(7, 2).status()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  auto change = session->SetWorld(1, 2);
  ASSERT_TRUE(change.ok());
  EXPECT_EQ(change->world_epoch, 2u);
  change->notices.Deliver();
  const auto told = Told(&first);
  ASSERT_THAT(told, SizeIs(3));
  EXPECT_EQ(told[0].world().epoch(), 2u);
  EXPECT_EQ(told[0].world().size(), 2u);
  EXPECT_EQ(told[1].refusal().step(), 1u);
  EXPECT_EQ(told[1].refusal().info().reason(), "WORLD_EPOCH_STALE");
  EXPECT_EQ(told[2].refusal().step(), 2u);
  EXPECT_THAT(Told(&second), SizeIs(1));
  EXPECT_EQ(ReasonOf(Give(&second, 1, Ema({1}), 1)), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  ASSERT_TRUE(Give(&second, 1, Ema({1}), 2).ok());
  ASSERT_TRUE(Give(&first, 1, Ema({2}), 2).ok());
  EXPECT_EQ(EmaOf(*session), (EmaRange{1, 2, 1}));
  EXPECT_EQ(ReasonOf(TryOpenRank(2, "late", "s").status()), v1::ERROR_REASON_RANK_INVALID);
  // Growing: a rank joins.
  change = session->SetWorld(2, 3);
  ASSERT_TRUE(change.ok());
  TestStream third = OpenRank(2);
  EXPECT_EQ(third.stream->welcome().folded_step(), 1u);
  EXPECT_EQ(third.stream->welcome().world().epoch(), 3u);
}

TEST_F(SynchronousTest, ARestartedServerGoesOnFromWhatIsDurable) {
  CreateSynchronous({.world_size = 2});
  {
    TestStream first = OpenRank(0), second = OpenRank(1);
    for (uint64_t step = 1; step <= 3; ++step) {
      if (step == 3) {
        ASSERT_TRUE(engine_->Checkpoint().ok());
        EXPECT_EQ(first.listener->durable_calls(), 1);
        EXPECT_EQ(first.stream->ack().durable_step(), 2u);
        EXPECT_EQ(first.stream->ack().folded_step(), 2u);
      }
      ASSERT_TRUE(Give(&first, step, Ema({static_cast<float>(step)})).ok());
      ASSERT_TRUE(Give(&second, step, Ema({-1})).ok());
    }
    first.stream->Close();
    second.stream->Close();
  }
  Start();
  const auto session = *engine_->FindSession("s");
  TestStream first = OpenRank(0), second = OpenRank(1);
  EXPECT_EQ(first.stream->welcome().folded_step(), 2u);
  EXPECT_EQ(first.stream->welcome().durable_step(), 2u);
  // What is folded and was perhaps not answered is answered still.
  ASSERT_TRUE(Give(&second, 2, Ema({-1})).ok());
  EXPECT_THAT(Told(&second).at(0).step_result().step_max(), ElementsAre(2));
  ASSERT_TRUE(Give(&first, 3, Ema({3})).ok());
  ASSERT_TRUE(Give(&second, 3, Ema({-1})).ok());
  EmaRange oracle;
  for (const float max : {1.0f, 2.0f, 3.0f}) {
    Range range;
    range.count = 2;
    range.min = -1;
    range.max = max;
    oracle.Fold(kEmaConfig.ema, range);
  }
  EXPECT_EQ(EmaOf(*session), oracle);
}

TEST_F(SynchronousTest, RanksLearnOneScale) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  EXPECT_EQ(ReasonOf(first.Send(GradientContribution(1, 1, kLearned, {0.5}, 10))),
            v1::ERROR_REASON_LEARNED_NOT_INITIALIZED);
  ASSERT_TRUE(Give(&first, 1, {{{kLearned, {1, -1, 1, -1}}}}).ok());
  ASSERT_TRUE(Give(&second, 1, {{{kLearned, {3, -3, 3, -3}}}}).ok());
  const auto initial = Told(&first);
  ASSERT_THAT(initial, SizeIs(1));
  ASSERT_THAT(Told(&second), SizeIs(1));
  // LSQ: 2 mean|x| / sqrt(qmax), over both ranks.
  const float scale = initial[0].step_result().scale(0);
  EXPECT_NEAR(scale, 2 * 2 / std::sqrt(127.0), 1e-6);
  ASSERT_TRUE(first.Send(GradientContribution(1, 2, kLearned, {1.0}, 30, 3)).ok());
  ASSERT_TRUE(second.Send(GradientContribution(1, 2, kLearned, {2.0}, 70, 1)).ok());
  const auto told = Told(&second);
  ASSERT_THAT(told, SizeIs(1));
  // The sum of the gradients over the sum of the weights, times LSQ's factor of all elements and the learning rate.
  const double factor = 1 / std::sqrt(100.0 * 127);
  EXPECT_EQ(told[0].step_result().scale(0), scale - 0.5f * static_cast<float>(factor * (3.0 / 4)));
  EXPECT_THAT(told[0].step_result().learned_zero_point(), ElementsAre(0));
  EXPECT_THAT(told[0].step_result().step_min(), IsEmpty());
}

TEST_F(SynchronousTest, BadContributionsChangeNothing) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  ASSERT_TRUE(Give(&first, 1, Ema({1, 2})).ok());
  const std::string before = Describe(*session);
  v1::ObserveRequest request = Contribution(1, 1, Ema({1}));
  const auto refused = [&](auto change) {
    v1::ObserveRequest changed = request;
    change(changed.mutable_step_contribution());
    const absl::Status status = second.Send(changed);
    EXPECT_EQ(second.stream->MakeRefusal(changed, status).step(), changed.step_contribution().step());
    return ReasonOf(status);
  };
  EXPECT_EQ(refused([](auto* c) { c->mutable_statistics()->set_layer(0, 99); }), v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN);
  EXPECT_EQ(refused([](auto* c) { c->mutable_statistics()->set_min(0, 7); }), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(refused([](auto* c) { c->mutable_statistics()->set_layer(0, 7); }), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(refused([](auto* c) {
              c->mutable_gradients()->add_layer(kEma);
              c->mutable_gradients()->add_elements(1);
              c->mutable_gradients()->add_scale(1);
            }),
            v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(refused([](auto* c) { c->mutable_gradients()->add_scale(1); }), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(refused([](auto* c) { c->mutable_gradients()->set_weight(-1); }), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(refused([](auto* c) {
              c->mutable_statistics()->add_channels(2);
              for (int i = 0; i < 1; ++i) {
                c->mutable_statistics()->add_count(1);
                c->mutable_statistics()->add_min(1);
                c->mutable_statistics()->add_max(1);
              }
            }),
            v1::ERROR_REASON_OBSERVER_MISMATCH);
  // Numbered updates are for layers that do not need steps.
  EXPECT_EQ(ReasonOf(second.Send(TensorRequest(1, 1, kEma, {1}, {1}))), v1::ERROR_REASON_STEP_REQUIRED);
  EXPECT_EQ(ReasonOf(second.Send(StatisticsRequest(1, 1, {{kLearned, Observe(kHistogramConfig, {1})}}))),
            v1::ERROR_REASON_STEP_REQUIRED);
  EXPECT_EQ(Describe(*session), before);
  // A stream without a rank, and a session without steps.
  TestStream none = Open("no-rank");
  EXPECT_EQ(ReasonOf(none.Send(Contribution(1, 1, {}))), v1::ERROR_REASON_RANK_INVALID);
  CreateSession("plain");
  EXPECT_EQ(ReasonOf(TryOpenRank(0, "w", "plain").status()), v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS);
}

// Disabled layers are passed over whatever came before, and cannot fail a step.
TEST_F(SynchronousTest, DisabledLayersArePassedOver) {
  const auto session = CreateSynchronous({.world_size = 1});
  TestStream rank = OpenRank(0);
  ASSERT_TRUE(session->SetEnabled("learned", false).ok());
  // Gradients may come before the step that would have given the first value.
  ASSERT_TRUE(rank.Send(GradientContribution(1, 2, kLearned, {0.5}, 10)).ok());
  ASSERT_TRUE(Give(&rank, 1, {{{kLearned, {1, 2}}}}).ok());
  const auto told = Told(&rank);
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_THAT(told[1].step_result().params(), ElementsAre(0));
  EXPECT_EQ(session->GetSummary().record.values_ignored, 2u);
  // An outlier that the histogram cannot take fails the step, until its layer is switched off.
  const RankStep wide{{{5, {-1e9f, 1e9f}}}};
  ASSERT_TRUE(Give(&rank, 3, {{{5, {-1, 1}}}}).ok());
  ASSERT_TRUE(rank.Send(Counts(Told(&rank).at(0).step_grids(), {{{5, {-1, 1}}}})).ok());
  ASSERT_THAT(Told(&rank), SizeIs(1));
  ASSERT_TRUE(Give(&rank, 4, wide).ok());
  EXPECT_EQ(Told(&rank).at(0).refusal().info().reason(), "REFERENCE_TOO_LARGE");
  ASSERT_TRUE(session->SetEnabled("mxnet", false).ok());
  ASSERT_TRUE(Give(&rank, 4, wide).ok());
  EXPECT_TRUE(Told(&rank).at(0).has_step_result());
  // Switched on between the grids and the counts: what was passed over stays so.
  ASSERT_TRUE(Give(&rank, 5, {{{kMegengine, {1, 2}}, {5, {-1e9f, 1e9f}}}}).ok());
  const auto grids = Told(&rank);
  ASSERT_THAT(grids, SizeIs(1));
  EXPECT_EQ(grids[0].step_grids().grid(1).bins(), 0u);
  ASSERT_TRUE(session->SetEnabled("mxnet", true).ok());
  ASSERT_TRUE(rank.Send(Counts(grids[0].step_grids(), {{{kMegengine, {1, 2}}, {5, {-1e9f, 1e9f}}}})).ok());
  EXPECT_TRUE(Told(&rank).at(0).has_step_result());
  EXPECT_EQ(session->GetLayer("mxnet")->statistics.channels()[0].range.count, 2u);
}

TEST_F(SynchronousTest, BadGradientsToALaterStepAreRefused) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0);
  const auto reason_of = [&](const std::vector<double>& scale, uint64_t elements, double weight) {
    return ReasonOf(first.Send(GradientContribution(1, 2, kLearned, scale, elements, weight)));
  };
  EXPECT_EQ(reason_of({1, 2, 3}, 10, 1), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(reason_of({NAN}, 10, 1), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(reason_of({1e300}, 10, 1), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(reason_of({1}, 0, 1), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(reason_of({1}, 10, 1e300), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(reason_of({1}, 10, 1e-300), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_EQ(session->GetSummary().layer_count, 0u);
  EXPECT_EQ(reason_of({1}, 10, 1), v1::ERROR_REASON_UNSPECIFIED);
}

// A full window never keeps out what the lowest step waits for.
TEST_F(SynchronousTest, TheLimitOfOpenStepsSparesTheLowest) {
  options_.limits.max_step_bytes = 4000;
  Start();
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  uint64_t step = 1;
  while (Give(&first, step, Ema({1})).ok()) ++step;
  EXPECT_LT(step, 16u);
  EXPECT_EQ(ReasonOf(Give(&first, step, Ema({1}))), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(ReasonOf(Give(&second, 2, Ema({1}))), v1::ERROR_REASON_LIMIT_EXCEEDED);
  ASSERT_TRUE(Give(&second, 1, Ema({1})).ok());
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 1u);
  EXPECT_TRUE(Give(&second, 2, Ema({1})).ok());
}

TEST_F(SynchronousTest, SealingAndDeletingEndOpenSteps) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0);
  ASSERT_TRUE(Give(&first, 1, Ema({1})).ok());
  ASSERT_TRUE(Seal(session.get()).ok());
  EXPECT_EQ(Told(&first).at(0).refusal().info().reason(), "SESSION_SEALED");
  EXPECT_EQ(ReasonOf(Give(&first, 1, Ema({1}))), v1::ERROR_REASON_SESSION_SEALED);
  const auto other = CreateSynchronous({.world_size = 2}, "t");
  TestStream rank = OpenRank(0, "", "t");
  ASSERT_TRUE(Give(&rank, 1, Ema({1})).ok());
  ASSERT_TRUE(engine_->DeleteSession("t").ok());
  EXPECT_EQ(ReasonOf(rank.listener->end_status()), v1::ERROR_REASON_SESSION_DELETED);
  EXPECT_EQ(ReasonOf(Give(&rank, 1, Ema({1}))), v1::ERROR_REASON_SESSION_DELETED);
}

TEST_F(SynchronousTest, AStepThatCannotBeFoldedFailsForAll) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  // MXNet's histogram grows by whole bins: this would be too many.
  const uint32_t mxnet = 5;
  for (uint64_t step = 1; step <= 2; ++step) {
    const RankStep narrow{{{mxnet, {-1, 1}}}}, wide{{{mxnet, {-1e9f, 1e9f}}}};
    ASSERT_TRUE(Give(&first, step, narrow).ok());
    ASSERT_TRUE(Give(&second, step, step == 1 ? narrow : wide).ok());
    if (step == 2) break;
    ASSERT_TRUE(first.Send(Counts(Told(&first)[0].step_grids(), narrow)).ok());
    ASSERT_TRUE(second.Send(Counts(Told(&second)[0].step_grids(), narrow)).ok());
    EXPECT_TRUE(Told(&first)[0].has_step_result());
  }
  const auto told = Told(&first);
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].refusal().info().reason(), "REFERENCE_TOO_LARGE");
  EXPECT_THAT(told[0].refusal().message(), HasSubstr("mxnet"));
  EXPECT_EQ(session->GetSummary().record.steps.folded_step, 1u);
  EXPECT_EQ(session->GetSummary().record.steps.failed_steps, 1u);
}

TEST_F(SynchronousTest, TheEnginesTimerExpiresSteps) {
  options_.clock = Clock::System();
  Start();
  // A deadline of centuries neither fires nor keeps the timer busy.
  CreateSynchronous({.world_size = 2, .straggler_policy = StragglerPolicy::kFail, .deadline = absl::Hours(80000000)},
                    "never");
  TestStream patient = OpenRank(0, "", "never");
  ASSERT_TRUE(Give(&patient, 1, Ema({1})).ok());
  const auto session = CreateSynchronous(
      {.world_size = 2, .straggler_policy = StragglerPolicy::kFail, .deadline = absl::Milliseconds(20)});
  TestStream first = OpenRank(0);
  Event told;
  first.listener->SetOnStep([&] { told.Set(); });
  ASSERT_TRUE(Give(&first, 1, Ema({1})).ok());
  ASSERT_TRUE(told.Wait());
  EXPECT_EQ(Told(&first).at(0).refusal().info().reason(), "STEP_TIMED_OUT");
}

}  // namespace
}  // namespace calib::server::test
