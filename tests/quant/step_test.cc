// Observers that depend on order: what a step must be, what it does, and that a refused one does nothing.

#include "quant/step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>

#include "quant/calibrate.h"
#include "tests/quant/step_feeding.h"

namespace calib {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

ObserverConfig EmaConfig(std::optional<int> axis = std::nullopt) {
  ObserverConfig config;
  config.kind = ObserverKind::kEma;
  config.channel_axis = axis;
  return config;
}

ObserverConfig ReferenceConfig(ReferenceRule rule = ReferenceRule::kMegengine, uint32_t bins = 4,
                               uint32_t max_bins = 0) {
  ObserverConfig config;
  config.kind = ObserverKind::kReferenceHistogram;
  config.reference = {rule, bins, max_bins};
  return config;
}

Range Extremes(float min, float max, uint64_t count = 2) {
  Range range;
  range.min = min;
  range.max = max;
  range.count = count;
  return range;
}

// The step is refused with this code, and nothing changes.
void ExpectRefused(const LayerStatistics& layer, const Step& step, absl::StatusCode code, const std::string& text) {
  const std::vector<ChannelStatistics> before = layer.channels();
  const absl::Status status = layer.CheckStep(step);
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_EQ(layer.channels(), before);
}

TEST(StepTest, EmaOfEachChannel) {
  LayerStatistics layer(EmaConfig(1));
  ASSERT_EQ(test::FoldTensor({{1, -10, 3, 30}}, {2, 2}, &layer), absl::OkStatus());
  ASSERT_EQ(test::FoldTensor({{2, 5, 13, NAN}}, {2, 2}, &layer), absl::OkStatus());
  ASSERT_THAT(layer.channels(), SizeIs(2));
  const EmaRange &first = *layer.channels()[0].ema, &second = *layer.channels()[1].ema;
  EXPECT_FLOAT_EQ(first.min, 0.9f * 1 + 0.1f * 2);
  EXPECT_FLOAT_EQ(first.max, 0.9f * 3 + 0.1f * 13);
  EXPECT_FLOAT_EQ(second.min, 0.9f * -10 + 0.1f * 5);
  EXPECT_FLOAT_EQ(second.max, 0.9f * 30 + 0.1f * 5);
  EXPECT_EQ(first.steps, 2u);
  // Beside it, the exact extremes and counts of all values.
  EXPECT_EQ(layer.channels()[0].range, Extremes(1, 13, 4));
  EXPECT_EQ(layer.channels()[1].range.nan, 1u);

  // Per channel each has its average; per tensor the widest of them, since the channels' values are one tensor's.
  QuantSpec spec;
  spec.granularity = QuantGranularity::kPerChannel;
  const auto apart = Calibrate(layer, {CalibrationMethod::kMinMax}, spec);
  ASSERT_TRUE(apart.ok()) << apart.status();
  EXPECT_EQ(apart->clip, (std::vector<ClipRange>{{0, first.max}, {second.min, second.max}}));
  EXPECT_FALSE(apart->error.has_value());
  const auto merged = Calibrate(layer, {CalibrationMethod::kMinMax}, {});
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->clip, (std::vector<ClipRange>{{second.min, second.max}}));
}

TEST(StepTest, AChannelWithoutValuesWaitsForItsFirst) {
  LayerStatistics layer(EmaConfig(0));
  ASSERT_EQ(test::FoldTensor({{NAN, 4}}, {2}, &layer), absl::OkStatus());
  ASSERT_EQ(test::FoldTensor({{7, 14}}, {2}, &layer), absl::OkStatus());
  EXPECT_EQ(layer.channels()[0].ema->max, 7);  // its first, not averaged with 0
  EXPECT_FLOAT_EQ(layer.channels()[1].ema->max, 5);
}

TEST(StepTest, ReferenceHistogramFoldsAsItWouldAlone) {
  for (const ReferenceRule rule :
       {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
    LayerStatistics layer(ReferenceConfig(rule, 5));
    ReferenceHistogram alone({rule, 5});
    for (const std::vector<float>& values :
         {std::vector<float>{-1, 0, 0.5f, 2}, {NAN, INFINITY}, {3, 9, NAN}, {-0.0f}, {-20, 20}}) {
      ASSERT_EQ(test::FoldTensor(values, {values.size()}, &layer), absl::OkStatus());
      ASSERT_EQ(test::Feed(values, &alone), absl::OkStatus());
      ASSERT_THAT(layer.channels(), SizeIs(1));
      EXPECT_EQ(*layer.channels()[0].reference, alone);
    }
    EXPECT_EQ(alone.steps(), 4u);
    // The range beside it is of the values, whatever the framework makes of its extremes.
    EXPECT_EQ(layer.channels()[0].range.min, -20);
    EXPECT_EQ(layer.channels()[0].range.nan, 2u);
    EXPECT_EQ(layer.channels()[0].range.positive_infinity, 1u);
  }
}

TEST(StepTest, NextGridIsTheHistogramsAndNoneForOthers) {
  const Range range = Extremes(-1, 3);
  EXPECT_EQ(*LayerStatistics(EmaConfig()).NextGrid(range), ReferenceGrid());
  LayerStatistics layer(ReferenceConfig());
  EXPECT_EQ(*layer.NextGrid(range), (ReferenceGrid{-1, 3, 4}));
  EXPECT_EQ(*layer.NextGrid(Range{}), ReferenceGrid());
  ASSERT_EQ(test::FoldTensor({{-1, 3}}, {2}, &layer), absl::OkStatus());
  EXPECT_EQ(*layer.NextGrid(Extremes(0, 1)), (ReferenceGrid{-1, 3, 4}));
  EXPECT_EQ(*layer.NextGrid(Extremes(0, 5)), (ReferenceGrid{-1, 5, 4}));
  EXPECT_EQ(layer.NextGrid(Extremes(0, INFINITY)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(layer.NextGrid(Extremes(2, 1)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(StepTest, WrongChannelCountsAreRefused) {
  LayerStatistics layer(EmaConfig(0));
  Step step{.ranges = {Extremes(0, 1), Extremes(0, 2)}};
  ASSERT_EQ(layer.CheckStep(step), absl::OkStatus());
  layer.FoldStep(step);
  step.ranges.pop_back();
  ExpectRefused(layer, step, absl::StatusCode::kFailedPrecondition, "2 channels and was now given 1");
  // A reference histogram is of a whole tensor.
  const LayerStatistics reference(ReferenceConfig());
  ExpectRefused(reference, Step{}, absl::StatusCode::kInvalidArgument, "one range, not 0");
  ExpectRefused(reference, {.ranges = {Extremes(0, 1), Extremes(0, 1)}}, absl::StatusCode::kInvalidArgument,
                "one range, not 2");
}

TEST(StepTest, OverflowIsRefusedWhole) {
  LayerStatistics layer(EmaConfig(0));
  Range full = Extremes(0, 1, 5);
  full.nan = std::numeric_limits<uint64_t>::max() - 5;
  const Step step{.ranges = {Extremes(0, 1), full}};
  ASSERT_EQ(layer.CheckStep(step), absl::OkStatus());
  layer.FoldStep(step);
  ExpectRefused(layer, {.ranges = {Extremes(0, 1), Extremes(0, 1)}}, absl::StatusCode::kOutOfRange, "2^64 - 1");
  EXPECT_EQ(layer.CheckStep({.ranges = {Extremes(0, 1), Range{}}}), absl::OkStatus());
}

TEST(StepTest, CountsOfAnObserverWithoutBinsAreRefused) {
  const LayerStatistics layer(EmaConfig());
  ExpectRefused(layer, {.ranges = {Extremes(0, 1)}, .grid = {0, 1, 2}, .counts = {1, 1}},
                absl::StatusCode::kInvalidArgument, "no reference histogram");
}

TEST(StepTest, CountsOnAnotherGridAreAborted) {
  LayerStatistics layer(ReferenceConfig());
  const auto early = test::MakeStep({{0, 1, 5}}, {3}, layer);
  ASSERT_TRUE(early.ok()) << early.status();
  ASSERT_EQ(test::FoldTensor({{-1, 3}}, {2}, &layer), absl::OkStatus());
  ExpectRefused(layer, *early, absl::StatusCode::kAborted, "counted on 4 bins from 0 to 5");
  // Counted anew it goes in.
  const auto again = test::MakeStep({{0, 1, 5}}, {3}, layer);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(layer.CheckStep(*again), absl::OkStatus());
}

TEST(StepTest, CountsThatContradictTheRangeAreRefused) {
  LayerStatistics layer(ReferenceConfig());
  Step step{.ranges = {Extremes(0, 4, 3)}, .grid = {0, 4, 4}, .counts = {1, 1, 0, 1}};
  EXPECT_EQ(layer.CheckStep(step), absl::OkStatus());
  step.counts = {1, 1, 1, 1};
  ExpectRefused(layer, step, absl::StatusCode::kInvalidArgument, "more than its 3 finite values");
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  step.counts = {1, most, 1, 1};  // would wrap around to 2
  ExpectRefused(layer, step, absl::StatusCode::kInvalidArgument, "more than its 3 finite values");
  step.counts = {1, 1, 1};
  ExpectRefused(layer, step, absl::StatusCode::kInvalidArgument, "3 counts were given for a grid of 4 bins");
  step = {.ranges = {Range{}}, .grid = {}, .counts = {0}};  // no finite value, so nothing to count
  ExpectRefused(layer, step, absl::StatusCode::kInvalidArgument, "1 counts were given for a grid of 0 bins");
  EXPECT_TRUE(layer.empty());
}

TEST(StepTest, GrowthBeyondTheBoundIsRefused) {
  LayerStatistics layer(ReferenceConfig(ReferenceRule::kMxnet, 5, 101));
  ASSERT_EQ(test::FoldTensor({{-1, 1}}, {2}, &layer), absl::OkStatus());
  EXPECT_EQ(layer.NextGrid(Extremes(0, 1e6f)).status().code(), absl::StatusCode::kResourceExhausted);
  ExpectRefused(layer, {.ranges = {Extremes(0, 1e6f)}}, absl::StatusCode::kResourceExhausted, "101");
  EXPECT_EQ(test::FoldTensor({{-2, 2}}, {2}, &layer), absl::OkStatus());
}

// Steps are no way into an observer that merges, nor into a passive one.
TEST(StepTest, ObserversThatMergeTakeNoSteps) {
  for (const ObserverKind kind : {ObserverKind::kHistogram, ObserverKind::kMinMax, ObserverKind::kPassive}) {
    ObserverConfig config;
    config.kind = kind;
    ExpectRefused(LayerStatistics(config), {.ranges = {Extremes(0, 1)}}, absl::StatusCode::kInvalidArgument,
                  "takes no steps");
  }
}

TEST(StepTest, ObserversThatTakeStepsAreNotMerged) {
  LayerStatistics layer(EmaConfig());
  ASSERT_EQ(test::FoldTensor({{1, 2}}, {2}, &layer), absl::OkStatus());
  EXPECT_EQ(layer.CheckMerge(layer).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(layer.CheckMerge(LayerStatistics(EmaConfig())), absl::OkStatus());
}

TEST(StepTest, ALayerOfNothingFiniteHasNoParameters) {
  for (const ObserverConfig& config : {EmaConfig(), ReferenceConfig()}) {
    LayerStatistics layer(config);
    EXPECT_EQ(CheckCalibrate(layer, {}, {}), CalibrateError::kLayerEmpty);
    ASSERT_EQ(test::FoldTensor({{NAN, INFINITY}}, {2}, &layer), absl::OkStatus());
    EXPECT_EQ(CheckCalibrate(layer, {}, {}), CalibrateError::kLayerEmpty);
    const absl::Status status = Calibrate(layer, {}, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("1 NaN, 1 infinities"));
  }
}

TEST(PassiveTest, AnswersWithWhatItWasGiven) {
  ObserverConfig config;
  config.kind = ObserverKind::kPassive;
  LayerStatistics layer(config);
  const absl::Status unset = Calibrate(layer, {}, {}).status();
  EXPECT_EQ(unset.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(unset.message()), HasSubstr("set them"));
  layer.SetPassive({{QParams{9, 9}}});
  layer.SetPassive({{QParams{0.5f, 3}, QParams{2, -128}}});  // replaces it, the number of channels too
  ASSERT_THAT(layer.channels(), SizeIs(2));
  QuantSpec spec;
  spec.scheme = QuantScheme::kAffine;
  spec.granularity = QuantGranularity::kPerChannel;
  const auto result = Calibrate(layer, {}, spec);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->params, (std::vector<QParams>{{0.5f, 3}, {2, -128}}));
  EXPECT_EQ(result->clip, (std::vector<ClipRange>{{-65.5, 62}, {0, 510}}));
  EXPECT_FALSE(result->error.has_value());
  EXPECT_EQ(layer.CheckMerge(layer).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace calib
