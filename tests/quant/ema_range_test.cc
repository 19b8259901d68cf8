#include "quant/ema_range.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;

constexpr EmaOptions kMegengine{EmaConvention::kMegengine, 0.9};
constexpr EmaOptions kPytorch{EmaConvention::kPytorch, 0.01};

Range Extremes(float min, float max) {
  Range range;
  range.min = min;
  range.max = max;
  range.count = 2;
  return range;
}

EmaRange Fold(const EmaOptions& options, const std::vector<Range>& steps) {
  EmaRange result;
  for (const Range& step : steps) result.Fold(options, step);
  return result;
}

// The channels' ranges at one step of a golden layer; `samples` of its batch, from `begin`.
std::vector<Range> Observe(const GoldenLayer& layer, size_t step, size_t begin, size_t samples, bool per_channel) {
  auto shape = layer.expected.at("shape").get<std::vector<uint64_t>>();
  size_t sample = 1;
  for (size_t axis = 1; axis < shape.size(); ++axis) sample *= shape[axis];
  const size_t first = (step * shape[0] + begin) * sample;
  const std::vector<float> values(layer.values.begin() + static_cast<ptrdiff_t>(first),
                                  layer.values.begin() + static_cast<ptrdiff_t>(first + samples * sample));
  shape[0] = samples;
  ObserverConfig config;
  if (per_channel) config.channel_axis = 1;
  const LayerStatistics statistics = test::ObserveLayer(values, shape, config);
  std::vector<Range> ranges;
  for (const ChannelStatistics& channel : statistics.channels()) ranges.push_back(channel.range);
  return ranges;
}

size_t Steps(const GoldenLayer& layer) { return layer.expected.at("batches").get<size_t>(); }
size_t Batch(const GoldenLayer& layer) { return layer.expected.at("shape").at(0).get<size_t>(); }

EmaRange FoldLayer(const EmaOptions& options, const GoldenLayer& layer) {
  EmaRange result;
  for (size_t step = 0; step < Steps(layer); ++step) {
    result.Fold(options, Observe(layer, step, 0, Batch(layer), false).at(0));
  }
  return result;
}

// Entries of `framework` for this observer that the averaged range equals.
int CompareEntries(const GoldenLayer& layer, const std::string& framework, const std::string& observer,
                   const EmaRange& range) {
  int compared = 0;
  for (const auto& [key, expected] : layer.expected.at(framework).items()) {
    if (key.rfind(observer + "/", 0) != 0) continue;
    EXPECT_EQ(range.min, expected.at("min").get<float>()) << layer.name << " " << key;
    EXPECT_EQ(range.max, expected.at("max").get<float>()) << layer.name << " " << key;
    ++compared;
  }
  return compared;
}

TEST(EmaRangeTest, MegengineGolden) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    compared += CompareEntries(layer, "megengine", "ExponentialMovingAverageObserver", FoldLayer(kMegengine, layer));
  }
  EXPECT_EQ(compared, 6 * static_cast<int>(GoldenLayers().size()));
}

TEST(EmaRangeTest, MegengineGoldenOfFourRanks) {
  constexpr size_t kRanks = 4;
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    EmaRange range;
    for (size_t step = 0; step < Steps(layer); ++step) {
      // As numpy.array_split: the first ranks get one more.
      Range all;
      size_t begin = 0;
      for (size_t rank = 0; rank < kRanks; ++rank) {
        const size_t samples = Batch(layer) / kRanks + (rank < Batch(layer) % kRanks ? 1 : 0);
        all.Merge(Observe(layer, step, begin, samples, false).at(0));
        begin += samples;
      }
      range.Fold(kMegengine, all);
    }
    compared += CompareEntries(layer, "megengine", "SyncExponentialMovingAverageObserver", range);
  }
  EXPECT_EQ(compared, static_cast<int>(GoldenLayers().size()));
}

TEST(EmaRangeTest, PytorchGolden) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    compared += CompareEntries(layer, "torch", "MovingAverageMinMaxObserver", FoldLayer(kPytorch, layer));
  }
  EXPECT_EQ(compared, 4 * static_cast<int>(GoldenLayers().size()));
}

TEST(EmaRangeTest, PytorchGoldenPerChannel) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const std::string key = "MovingAveragePerChannelMinMaxObserver/qint8/symmetric/axis1";
    if (!layer.expected.at("torch").contains(key)) continue;
    const auto& expected = layer.expected.at("torch").at(key);
    std::vector<EmaRange> channels(expected.at("scale").size());
    for (size_t step = 0; step < Steps(layer); ++step) {
      const std::vector<Range> ranges = Observe(layer, step, 0, Batch(layer), true);
      ASSERT_EQ(ranges.size(), channels.size()) << layer.name;
      for (size_t i = 0; i < channels.size(); ++i) channels[i].Fold(kPytorch, ranges[i]);
    }
    // Symmetric int8: what the frameworks divide by is half of the 255 steps.
    const auto scales = expected.at("scale").get<std::vector<float>>();
    for (size_t i = 0; i < channels.size(); ++i) {
      const float amplitude = std::max(-std::min(channels[i].min, 0.0f), std::max(channels[i].max, 0.0f));
      EXPECT_EQ(std::max(amplitude / 127.5f, FLT_EPSILON), scales[i]) << layer.name << " channel " << i;
    }
    ++compared;
  }
  EXPECT_EQ(compared, 8);
}

TEST(EmaRangeTest, OptionsAreChecked) {
  const auto check = [](EmaConvention convention, double weight) {
    return CheckEmaOptions({convention, weight}).code();
  };
  const absl::StatusCode kOk = absl::StatusCode::kOk, kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(check(EmaConvention::kMegengine, 0), kOk);
  EXPECT_EQ(check(EmaConvention::kMegengine, 0.999), kOk);
  EXPECT_EQ(check(EmaConvention::kMegengine, 1), kInvalid);
  EXPECT_EQ(check(EmaConvention::kMegengine, 1 - 1e-12), kInvalid);  // 1 in float32
  EXPECT_EQ(check(EmaConvention::kMegengine, -0.1), kInvalid);
  EXPECT_EQ(check(EmaConvention::kPytorch, 1), kOk);
  EXPECT_EQ(check(EmaConvention::kPytorch, 1e-6), kOk);
  EXPECT_EQ(check(EmaConvention::kPytorch, 0), kInvalid);
  EXPECT_EQ(check(EmaConvention::kPytorch, 1.01), kInvalid);
  for (const double weight : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(check(EmaConvention::kMegengine, weight), kInvalid);
    EXPECT_EQ(check(EmaConvention::kPytorch, weight), kInvalid);
  }
}

TEST(EmaRangeTest, TheFirstStepIsTakenAsItIs) {
  for (const EmaOptions& options : {kMegengine, kPytorch}) {
    const EmaRange range = Fold(options, {Extremes(-FLT_MAX, 3.3f)});
    EXPECT_EQ(range.min, -FLT_MAX);
    EXPECT_EQ(range.max, 3.3f);
    EXPECT_EQ(range.steps, 1u);
  }
}

TEST(EmaRangeTest, WeightsAreOfOppositeSides) {
  const std::vector<Range> steps = {Extremes(0, 100), Extremes(0, 200)};
  EXPECT_NEAR(Fold(kMegengine, steps).max, 110, 1e-4);
  EXPECT_NEAR(Fold(kPytorch, steps).max, 101, 1e-4);
  EXPECT_EQ(Fold({EmaConvention::kMegengine, 0}, steps).max, 200);
  EXPECT_EQ(Fold({EmaConvention::kPytorch, 1}, steps).max, 200);
}

TEST(EmaRangeTest, StepsWithoutFiniteValuesChangeNothing) {
  Range nothing;
  nothing.nan = 5;
  for (const EmaOptions& options : {kMegengine, kPytorch}) {
    EXPECT_EQ(Fold(options, {nothing}), EmaRange{});
    const Range first = Extremes(-1, 2), second = Extremes(-3, 1);
    EXPECT_EQ(Fold(options, {nothing, first, Range{}, second, nothing}), Fold(options, {first, second}));
  }
}

TEST(EmaRangeTest, DependsOnTheOrder) {
  for (const EmaOptions& options : {kMegengine, kPytorch}) {
    const Range a = Extremes(-1, 2), b = Extremes(-3, 5);
    EXPECT_NE(Fold(options, {a, b}), Fold(options, {b, a}));
  }
}

TEST(EmaRangeTest, StaysFiniteAtTheEndsOfFloat32) {
  for (const EmaConvention convention : {EmaConvention::kMegengine, EmaConvention::kPytorch}) {
    for (const double weight : {0.9, 0.5, 0.3, 0.01}) {
      EmaRange range = Fold({convention, weight}, {Extremes(-FLT_MAX, -FLT_MAX), Extremes(FLT_MAX, FLT_MAX)});
      const double old_weight = convention == EmaConvention::kMegengine ? weight : 1 - weight;
      EXPECT_NEAR(range.max / double{FLT_MAX}, 1 - 2 * old_weight, 1e-6) << weight;
      range = Fold({convention, weight}, {Extremes(FLT_MAX, FLT_MAX), Extremes(FLT_MAX, FLT_MAX)});
      EXPECT_NEAR(range.max / double{FLT_MAX}, 1, 1e-6);
    }
  }
}

TEST(EmaRangeTest, RoundingDoesNotSwapTheEnds) {
  // In float32 these two averages come out as -6.7584605 and -6.758461, in the wrong order.
  const float low = -2.6718902587890625f, high = std::nextafter(low, 0.0f), next = -411.3289489746094f;
  const float low_average = low + 0.01f * (next - low), high_average = high + 0.01f * (next - high);
  ASSERT_GT(low_average, high_average);
  const EmaRange range = Fold(kPytorch, {Extremes(low, high), Extremes(next, next)});
  EXPECT_LE(range.min, range.max);
  EXPECT_EQ(range.min, low_average);
}

}  // namespace
}  // namespace calib
