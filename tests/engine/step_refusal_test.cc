// Synchronous steps that are refused, fail, or pass disabled layers over.

#include <cmath>
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
using ::testing::SizeIs;

class StepRefusalTest : public SynchronousFixture {};

TEST_F(StepRefusalTest, BadContributionsChangeNothing) {
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
  EXPECT_EQ(refused([](auto* c) { c->mutable_statistics()->set_layer(0, 8); }), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(refused([](auto* c) {
              c->mutable_gradients()->add_layer(kEmaHandle);
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
  EXPECT_EQ(ReasonOf(second.Send(TensorRequest(1, 1, kEmaHandle, {1}, {1}))), v1::ERROR_REASON_STEP_REQUIRED);
  EXPECT_EQ(ReasonOf(second.Send(StatisticsRequest(1, 1, {{kLearnedHandle, Observe(kHistogramConfig, {1})}}))),
            v1::ERROR_REASON_STEP_REQUIRED);
  EXPECT_EQ(Describe(*session), before);
  // A stream without a rank, and a session without steps.
  TestStream none = Open("no-rank");
  EXPECT_EQ(ReasonOf(none.Send(Contribution(1, 1, {}))), v1::ERROR_REASON_RANK_INVALID);
  CreateSession("plain");
  EXPECT_EQ(ReasonOf(TryOpenRank(0, "w", "plain").status()), v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS);
}

// Disabled layers are passed over whatever came before, and cannot fail a step.
TEST_F(StepRefusalTest, DisabledLayersArePassedOver) {
  const auto session = CreateSynchronous({.world_size = 1});
  TestStream rank = OpenRank(0);
  ASSERT_TRUE(session->SetEnabled("learned", false).ok());
  // Gradients may come before the step that would have given the first value.
  ASSERT_TRUE(rank.Send(GradientContribution(1, 2, kLearnedHandle, {0.5}, 10)).ok());
  ASSERT_TRUE(Give(&rank, 1, {{{kLearnedHandle, {1, 2}}}}).ok());
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
  ASSERT_TRUE(Give(&rank, 5, {{{kMegengineHandle, {1, 2}}, {5, {-1e9f, 1e9f}}}}).ok());
  const auto grids = Told(&rank);
  ASSERT_THAT(grids, SizeIs(1));
  EXPECT_EQ(grids[0].step_grids().grid(1).bins(), 0u);
  ASSERT_TRUE(session->SetEnabled("mxnet", true).ok());
  ASSERT_TRUE(rank.Send(Counts(grids[0].step_grids(), {{{kMegengineHandle, {1, 2}}, {5, {-1e9f, 1e9f}}}})).ok());
  EXPECT_TRUE(Told(&rank).at(0).has_step_result());
  EXPECT_EQ(session->GetLayer("mxnet")->statistics.channels()[0].range.count, 2u);
}

TEST_F(StepRefusalTest, BadGradientsToALaterStepAreRefused) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0);
  const auto reason_of = [&](const std::vector<double>& scale, uint64_t elements, double weight) {
    return ReasonOf(first.Send(GradientContribution(1, 2, kLearnedHandle, scale, elements, weight)));
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

TEST_F(StepRefusalTest, AStepThatCannotBeFoldedFailsForAll) {
  const auto session = CreateSynchronous({.world_size = 2});
  TestStream first = OpenRank(0), second = OpenRank(1);
  // MXNet's histogram grows by whole bins: this would be too many.
  const uint32_t mxnet = kMxnetHandle;
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

}  // namespace
}  // namespace calib::server::test
