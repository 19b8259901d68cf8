// Synchronous steps: contributions in any order, repetitions, restarts, learned scales.

#include <algorithm>
#include <cmath>
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
using ::testing::IsEmpty;
using ::testing::SizeIs;

class SynchronousTest : public SynchronousFixture {};

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
      if ((step + rank + kEmaHandle) % 7 == 3) continue;
      for (const float value : values_of(step, rank, kEmaHandle)) {
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
  const RankStep wide{{{kMegengineHandle, {-10, 10, 3}}}}, narrow{{{kMegengineHandle, {-1, 1, 0.5f, 0.25f}}}};
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
  EXPECT_EQ(ReasonOf(first.Send(GradientContribution(1, 1, kLearnedHandle, {0.5}, 10))),
            v1::ERROR_REASON_LEARNED_NOT_INITIALIZED);
  ASSERT_TRUE(Give(&first, 1, {{{kLearnedHandle, {1, -1, 1, -1}}}}).ok());
  ASSERT_TRUE(Give(&second, 1, {{{kLearnedHandle, {3, -3, 3, -3}}}}).ok());
  const auto initial = Told(&first);
  ASSERT_THAT(initial, SizeIs(1));
  ASSERT_THAT(Told(&second), SizeIs(1));
  // LSQ: 2 mean|x| / sqrt(qmax), over both ranks.
  const float scale = initial[0].step_result().scale(0);
  EXPECT_NEAR(scale, 2 * 2 / std::sqrt(127.0), 1e-6);
  ASSERT_TRUE(first.Send(GradientContribution(1, 2, kLearnedHandle, {1.0}, 30, 3)).ok());
  ASSERT_TRUE(second.Send(GradientContribution(1, 2, kLearnedHandle, {2.0}, 70, 1)).ok());
  const auto told = Told(&second);
  ASSERT_THAT(told, SizeIs(1));
  // The sum of the gradients over the sum of the weights, times LSQ's factor of all elements and the learning rate.
  const double factor = 1 / std::sqrt(100.0 * 127);
  EXPECT_EQ(told[0].step_result().scale(0), scale - 0.5f * static_cast<float>(factor * (3.0 / 4)));
  EXPECT_THAT(told[0].step_result().learned_zero_point(), ElementsAre(0));
  EXPECT_THAT(told[0].step_result().step_min(), IsEmpty());
}

// A weight that all ranks hold: neither its statistics nor its elements depend on how many they are.
TEST_F(SynchronousTest, AReplicatedTensorsScaleDoesNotDependOnTheWorld) {
  std::vector<float> scales;
  for (const uint32_t world_size : {1, 3}) {
    const std::string name = absl::StrCat("world-", world_size);
    CreateSynchronous({.world_size = world_size}, name);
    std::vector<TestStream> ranks;
    for (uint32_t rank = 0; rank < world_size; ++rank) ranks.push_back(OpenRank(rank, "", name));
    for (TestStream& rank : ranks) ASSERT_TRUE(Give(&rank, 1, {{{kReplicatedHandle, {1, -2, 3}}}}).ok());
    for (TestStream& rank : ranks) {
      ASSERT_TRUE(rank.Send(GradientContribution(1, 2, kReplicatedHandle, {0.75}, 3)).ok());
    }
    scales.push_back(Told(&ranks[0]).at(1).step_result().scale(0));
  }
  EXPECT_EQ(scales[0], scales[1]);
}

}  // namespace
}  // namespace calib::server::test
