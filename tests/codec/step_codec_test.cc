// Steps and states of observers that depend on order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "tests/codec/random_statistics.h"

namespace calib {
namespace {

using test::Rng;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const ObserverConfig kEma{.kind = ObserverKind::kEma};
const ObserverConfig kEmaChannels{.kind = ObserverKind::kEma, .channel_axis = 1};

ObserverConfig Reference(ReferenceRule rule, uint32_t bins = 65, uint32_t max_bins = 0) {
  return {.kind = ObserverKind::kReferenceHistogram, .reference = {rule, bins, max_bins}};
}

const ReferenceRule kRules[] = {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent,
                                ReferenceRule::kMxnet};

// Layers 0, 3, 6, ... are of kind ema, 1, 4, ... reference histograms, others minmax.
ObserverKind KindOf(uint32_t handle) {
  constexpr ObserverKind kKinds[] = {ObserverKind::kEma, ObserverKind::kReferenceHistogram, ObserverKind::kMinMax};
  return kKinds[handle % 3];
}

// The next step of a layer with this state.
Step MakeStep(const LayerStatistics& state, const std::vector<float>& values, uint64_t channels = 1) {
  ObserverConfig ranges = state.config();
  ranges.kind = ObserverKind::kMinMax;
  Step step;
  const LayerStatistics observed = test::Observe(ranges, values, channels);
  for (const ChannelStatistics& channel : observed.channels()) step.ranges.push_back(channel.range);
  if (state.config().kind != ObserverKind::kReferenceHistogram) return step;
  const absl::StatusOr<ReferenceGrid> grid = state.NextGrid(step.ranges.front());
  EXPECT_TRUE(grid.ok()) << grid.status();
  step.grid = grid.value_or(ReferenceGrid());
  TensorView view;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  EXPECT_TRUE(CountOnGrid(state.config().reference.rule, step.grid, view, &step.counts).ok());
  return step;
}

v1::StatisticsBatch EncodeStep(uint32_t handle, const Step& step) {
  v1::StatisticsBatch batch;
  StatisticsWriter().AddStep(handle, step, KindOf(handle) == ObserverKind::kReferenceHistogram, &batch);
  return batch;
}

// Decodes a batch of one layer and folds it in, if it may be.
absl::Status DecodeAndFold(const v1::StatisticsBatch& batch, LayerStatistics* statistics) {
  StatisticsReader reader;
  if (absl::Status status = reader.Decode(batch, KindOf); !status.ok()) return status;
  if (absl::Status status = CheckMergeRows(reader.layers().at(0), *statistics); !status.ok()) return status;
  MergeRows(reader.layers().at(0), statistics);
  return absl::OkStatus();
}

TEST(StepCodecTest, StepsSurviveTheRoundTrip) {
  Rng rng(21);
  StatisticsReader reader;
  std::vector<LayerStatistics> layers = {LayerStatistics(kEma), LayerStatistics(kEmaChannels)};
  for (const ReferenceRule rule : kRules) layers.emplace_back(Reference(rule, 65, 1 << 20));
  for (int round = 0; round < 60; ++round) {
    for (LayerStatistics& layer : layers) {
      const uint64_t channels = layer.config().channel_axis.has_value() ? 3 : 1;
      std::vector<float> values(round % 7 == 3 ? 0 : channels * (1 + rng() % 40));
      for (float& value : values) {
        value = rng() % 9 == 0 ? NAN : (static_cast<float>(rng() % 2001) - 1000) / 64;
      }
      const Step step = MakeStep(layer, values, channels);
      const uint32_t handle = layer.config().kind == ObserverKind::kEma ? 3 : 4;
      v1::StatisticsBatch batch;
      ASSERT_TRUE(batch.ParseFromString(EncodeStep(handle, step).SerializeAsString()));
      ASSERT_TRUE(reader.Decode(batch, KindOf).ok());
      const Step read = StepOfRows(reader.layers().at(0));
      EXPECT_EQ(read.ranges, step.ranges);
      EXPECT_EQ(read.grid, step.grid);
      EXPECT_EQ(read.counts, step.counts);
      LayerStatistics expected = layer;
      ASSERT_TRUE(expected.CheckStep(step).ok()) << expected.CheckStep(step);
      expected.FoldStep(step);
      ASSERT_TRUE(CheckMergeRows(reader.layers()[0], layer).ok());
      MergeRows(reader.layers()[0], &layer);
      ASSERT_EQ(layer.channels(), expected.channels());
    }
  }
}

TEST(StepCodecTest, AStepWithoutFiniteValuesHasNoBins) {
  LayerStatistics state(Reference(ReferenceRule::kMxnet));
  for (const std::vector<float>& values : {std::vector<float>{NAN, INFINITY, -INFINITY}, std::vector<float>{}}) {
    const v1::StatisticsBatch batch = EncodeStep(1, MakeStep(state, values));
    EXPECT_THAT(batch.count(), ElementsAre(0));
    ASSERT_EQ(batch.reference_histogram_size(), 1);
    EXPECT_EQ(batch.reference_histogram(0).ByteSizeLong(), 0u);
    ASSERT_TRUE(DecodeAndFold(batch, &state).ok());
  }
  EXPECT_EQ(state.channels().at(0).range, (Range{.nan = 1, .positive_infinity = 1, .negative_infinity = 1}));
  EXPECT_TRUE(state.channels()[0].reference->empty());
}

struct MalformedStep {
  v1::ErrorReason reason;
  std::string message;  // a part of it
  std::function<void(v1::StatisticsBatch*)> spoil;
};

TEST(StepCodecTest, TheReaderRefusesWhatIsNoStep) {
  const auto histogram = [](v1::StatisticsBatch* b) { return b->mutable_reference_histogram(0); };
  constexpr v1::ErrorReason kInconsistent = v1::ERROR_REASON_STATISTICS_INCONSISTENT;
  constexpr v1::ErrorReason kInvalid = v1::ERROR_REASON_HISTOGRAM_INVALID;
  const std::vector<MalformedStep> cases = {
      {kInconsistent, "`reference_histogram` has 0 entries", [](auto* b) { b->clear_reference_histogram(); }},
      {kInconsistent, "`reference_histogram` has 2 entries", [](auto* b) { b->add_reference_histogram(); }},
      {kInconsistent, "`ema` is not empty", [](auto* b) { b->add_ema(); }},
      {kInconsistent, "`histogram` has 1 entries", [](auto* b) { b->add_histogram(); }},
      {kInvalid, "count 0.5 is not a whole number", [&](auto* b) { histogram(b)->set_count(3, 0.5); }},
      {kInvalid, "count -1 is", [&](auto* b) { histogram(b)->set_count(0, -1); }},
      {kInvalid, "count nan is", [&](auto* b) { histogram(b)->set_count(0, NAN); }},
      {kInvalid, "count inf is", [&](auto* b) { histogram(b)->set_count(0, INFINITY); }},
      {kInvalid, "is not a whole number from 0 to 2^53", [&](auto* b) { histogram(b)->set_count(0, 0x1p53 + 2); }},
      {kInvalid, "leave them out", [&](auto* b) { histogram(b)->set_steps(1); }},
      {kInvalid, "leave them out", [&](auto* b) { histogram(b)->set_min(-1); }},
      {kInvalid, "leave them out", [&](auto* b) { histogram(b)->set_max(1); }},
  };
  const LayerStatistics state(Reference(ReferenceRule::kPytorch));
  StatisticsReader reader;
  for (const MalformedStep& malformed : cases) {
    v1::StatisticsBatch batch = EncodeStep(1, MakeStep(state, {1, 2, 3}));
    ASSERT_TRUE(reader.Decode(batch, KindOf).ok());
    malformed.spoil(&batch);
    const absl::Status status = reader.Decode(batch, KindOf);
    EXPECT_EQ(GetReason(status), malformed.reason) << status << " for " << malformed.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
    if (malformed.reason == kInvalid) {
      EXPECT_EQ(GetErrorInfo(status)->metadata().at("handle"), "1");
    }
    EXPECT_THAT(reader.layers(), IsEmpty());
  }
  v1::StatisticsBatch most = EncodeStep(1, MakeStep(state, {1, 2, 3}));
  most.mutable_reference_histogram(0)->set_count(0, 0x1p53);
  EXPECT_TRUE(reader.Decode(most, KindOf).ok());
}

TEST(StepCodecTest, StepsThatDoNotFitTheStateAreRefused) {
  LayerStatistics state(Reference(ReferenceRule::kMxnet, 65, 129));
  ASSERT_TRUE(DecodeAndFold(EncodeStep(1, MakeStep(state, {-1, 0.25f, 0.5f})), &state).ok());
  const LayerStatistics before = state;
  const v1::StatisticsBatch good = EncodeStep(1, MakeStep(state, {0.5f, 0.75f}));
  const auto reason_after = [&](const std::function<void(v1::StatisticsBatch*)>& spoil) {
    v1::StatisticsBatch batch = good;
    spoil(&batch);
    const absl::Status status = DecodeAndFold(batch, &state);
    EXPECT_EQ(state.channels(), before.channels());
    EXPECT_EQ(status.code(), CodeOfReason(GetReason(status))) << status;
    return GetReason(status);
  };
  const auto histogram = [](v1::StatisticsBatch* b) { return b->mutable_reference_histogram(0); };
  EXPECT_EQ(reason_after([&](auto* b) { histogram(b)->set_low(-2); }), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_EQ(reason_after([&](auto* b) { histogram(b)->set_high(NAN); }), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_EQ(reason_after([&](auto* b) { histogram(b)->add_count(0); }), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_EQ(reason_after([&](auto* b) { histogram(b)->clear_count(); }), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_EQ(reason_after([&](auto* b) { histogram(b)->set_count(0, 3); }), v1::ERROR_REASON_HISTOGRAM_INVALID);
  EXPECT_EQ(reason_after([&](auto* b) { b->set_max(0, 9); }), v1::ERROR_REASON_REFERENCE_TOO_LARGE);
  EXPECT_EQ(reason_after([&](auto* b) { b->set_count(0, std::numeric_limits<uint64_t>::max()); }),
            v1::ERROR_REASON_COUNT_OVERFLOW);
  EXPECT_TRUE(DecodeAndFold(good, &state).ok());
}

TEST(StepCodecTest, ChannelsMustStayAndPassiveLayersTakeNothing) {
  LayerStatistics channels(kEmaChannels);
  ASSERT_TRUE(DecodeAndFold(EncodeStep(0, MakeStep(channels, {1, 2, 3}, 3)), &channels).ok());
  const v1::StatisticsBatch two = EncodeStep(0, MakeStep(LayerStatistics(kEmaChannels), {1, 2}, 2));
  EXPECT_EQ(GetReason(DecodeAndFold(two, &channels)), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  LayerStatistics whole(kEma);
  EXPECT_EQ(GetReason(DecodeAndFold(two, &whole)), v1::ERROR_REASON_OBSERVER_MISMATCH);
  LayerStatistics passive({.kind = ObserverKind::kPassive});
  const absl::Status status = DecodeAndFold(EncodeStep(0, MakeStep(whole, {1})), &passive);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_THAT(std::string(status.message()), HasSubstr("SetQParams"));
  EXPECT_TRUE(passive.empty());
}

TEST(StepCodecTest, StatesAreWrittenWhole) {
  LayerStatistics ema(kEmaChannels);
  ema.FoldStep(MakeStep(ema, {1, 10, -2, 20}, 2));
  ema.FoldStep(MakeStep(ema, {3, 5}, 2));
  const v1::StatisticsBatch batch = test::Encode({{0, ema}});
  ASSERT_EQ(batch.ema_size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(batch.ema(i).min(), ema.channels()[i].ema->min);
    EXPECT_EQ(batch.ema(i).max(), ema.channels()[i].ema->max);
    EXPECT_EQ(batch.ema(i).steps(), 2u);
  }
  EXPECT_NE(batch.ema(0).min(), batch.min(0)) << "an average beside the extremes";
  EXPECT_EQ(batch.reference_histogram_size(), 0);
}

TEST(StepCodecTest, ReferenceStatesSurviveTheRoundTrip) {
  Rng rng(22);
  for (const ReferenceRule rule : kRules) {
    LayerStatistics state(Reference(rule, 65, 1 << 20));
    for (int round = 0; round < 40; ++round) {
      // A first step without finite values; then scales that widen, shift and stay.
      std::vector<float> values(1 + rng() % 30, round == 0 ? NAN : 0.0f);
      for (float& value : values) {
        if (round > 0) value = (static_cast<float>(rng() % 1001) - 400) * static_cast<float>(1 + round / 10);
      }
      state.FoldStep(MakeStep(state, values));
      v1::StatisticsBatch batch;
      ASSERT_TRUE(batch.ParseFromString(test::Encode({{1, state}}).SerializeAsString()));
      const ChannelStatistics& channel = state.channels().at(0);
      const absl::StatusOr<ReferenceHistogram> decoded =
          DecodeReferenceState(state.config().reference, channel.range, batch.reference_histogram(0));
      ASSERT_TRUE(decoded.ok()) << decoded.status() << ReferenceRuleName(rule) << round;
      ASSERT_EQ(*decoded, *channel.reference);
    }
  }
}

TEST(StepCodecTest, ImpossibleReferenceStatesAreRefused) {
  LayerStatistics state(Reference(ReferenceRule::kMxnet));
  state.FoldStep(MakeStep(state, {-1, 0.5f}));
  const v1::StatisticsBatch batch = test::Encode({{1, state}});
  const auto decode = [&](const std::function<void(v1::ReferenceHistogram*)>& spoil) {
    v1::ReferenceHistogram message = batch.reference_histogram(0);
    spoil(&message);
    return DecodeReferenceState(state.config().reference, state.channels()[0].range, message).status();
  };
  EXPECT_TRUE(decode([](auto*) {}).ok());
  EXPECT_FALSE(decode([](auto* m) { m->add_count(0); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_count(0, -1); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_count(0, 100); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_low(-7); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_max(INFINITY); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_steps(0); }).ok());
  EXPECT_FALSE(decode([](auto* m) { m->set_steps(3); }).ok()) << "more steps than values";
}

// Whatever is changed of a step: it is refused, or folded in whole.
TEST(StepCodecTest, MutatedStepsAreRefusedOrFolded) {
  Rng rng(23);
  int folded = 0;
  int refused = 0;
  LayerStatistics state(Reference(ReferenceRule::kMegengine, 16));
  for (int round = 0; round < 3000; ++round) {
    v1::StatisticsBatch batch =
        EncodeStep(1, MakeStep(state, {-1, 0, static_cast<float>(rng() % 100), 1.5f, static_cast<float>(rng() % 7)}));
    std::string bytes = batch.SerializeAsString();
    if (rng() % 4 != 0) bytes[rng() % bytes.size()] = static_cast<char>(rng());
    if (!batch.ParseFromString(bytes) || batch.layer_size() != 1 || KindOf(batch.layer(0)) != KindOf(1)) continue;
    const std::vector<ChannelStatistics> before = state.channels();
    const uint64_t steps = before.empty() ? 0 : before[0].reference->steps();
    if (DecodeAndFold(batch, &state).ok()) {
      ++folded;
      ASSERT_EQ(state.channels()[0].reference->steps(), steps + (batch.count(0) > 0 ? 1 : 0));
      ASSERT_EQ(state.channels()[0].reference->range().count, state.channels()[0].range.count);
    } else {
      ++refused;
      ASSERT_EQ(state.channels(), before);
    }
  }
  EXPECT_GT(folded, 300);
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace calib
