// Synchronous steps without some rank: the policies, worlds, limits, ends.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/synchronous_fixture.h"

namespace calib::server::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class StragglerTest : public SynchronousFixture {};

TEST_F(StragglerTest, WaitHoldsAStepAndSaysWhoIsMissing) {
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

TEST_F(StragglerTest, FailEndsOpenStepsForAllAtTheDeadline) {
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

TEST_F(StragglerTest, ClosePartialGoesOnAndCountsIt) {
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

TEST_F(StragglerTest, AStepWithoutSomeCountsClosesPartially) {
  const auto session = CreateSynchronous(
      {.world_size = 2, .straggler_policy = StragglerPolicy::kClosePartial, .deadline = absl::Seconds(1)});
  TestStream first = OpenRank(0), second = OpenRank(1);
  const RankStep data{{{kMegengineHandle, {-2, 1, 2}}}}, wide{{{kMegengineHandle, {-20, 1, 20}}}};
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

TEST_F(StragglerTest, ANewWorldDropsOpenStepsAndGoesOn) {
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

// A full window never keeps out what the lowest step waits for.
TEST_F(StragglerTest, TheLimitOfOpenStepsSparesTheLowest) {
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

TEST_F(StragglerTest, SealingAndDeletingEndOpenSteps) {
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

TEST_F(StragglerTest, TheEnginesTimerExpiresSteps) {
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
