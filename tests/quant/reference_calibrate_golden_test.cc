// Every entry of expected.json that a framework's observer gave, against what the same steps give through
// LayerStatistics and Calibrate. quant/README.md has these counts.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "quant/calibrate.h"
#include "tests/quant/step_feeding.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;

// An entry's key: Observer/type/mode, or Observer/type/mode/axis1.
struct Key {
  explicit Key(const std::string& text) : parts(absl::StrSplit(text, '/')) {}

  const std::string& observer() const { return parts[0]; }
  bool per_channel() const { return parts.size() > 3; }
  QuantSpec Spec(QuantPreset preset) const {
    QuantSpec spec;
    spec.preset = preset;
    spec.type = *ParseQuantType(parts[1].substr(1));
    spec.scheme = parts[2] == "symmetric" ? QuantScheme::kSymmetric : QuantScheme::kAffine;
    if (per_channel()) spec.granularity = QuantGranularity::kPerChannel;
    return spec;
  }

  std::vector<std::string> parts;
};

struct Counts {
  int compared = 0;
  int failed_there = 0;

  friend bool operator==(const Counts&, const Counts&) = default;
};

using CountsByObserver = std::map<std::string, Counts>;

// Each layer is observed once by each observer.
class ObservedSteps {
 public:
  const LayerStatistics& By(const GoldenLayer& layer, const ObserverConfig& config) {
    for (const auto& [known, statistics] : known_) {
      if (known == config) return statistics;
    }
    return known_
        .emplace_back(config, DependsOnOrder(config.kind) ? test::FoldLayer(layer, config) : Merged(layer, config))
        .second;
  }

 private:
  // Steps merged one by one, of four ranks each.
  static LayerStatistics Merged(const GoldenLayer& layer, const ObserverConfig& config) {
    auto shape = layer.expected.at("shape").get<std::vector<uint64_t>>();
    const size_t rows = shape[0] * layer.expected.at("batches").get<size_t>(), row = layer.values.size() / rows;
    LayerStatistics statistics(config);
    const size_t stride = std::max<size_t>(shape[0] / 4, 1);
    for (size_t begin = 0; begin < rows; begin += stride) {
      shape[0] = std::min(stride, rows - begin);
      const auto first = layer.values.begin() + static_cast<ptrdiff_t>(begin * row);
      statistics.Merge(test::ObserveLayer({first, first + static_cast<ptrdiff_t>(shape[0] * row)}, shape, config));
    }
    return statistics;
  }

  std::deque<std::pair<ObserverConfig, LayerStatistics>> known_;
};

ObserverConfig ConfigOf(const Key& key, EmaOptions ema, ReferenceRule rule) {
  ObserverConfig config;
  config.kind = ObserverKind::kMinMax;
  config.ema = ema;
  config.reference.rule = rule;
  if (key.per_channel()) config.channel_axis = 1;
  if (key.observer() == "HistogramObserver") {
    config.kind = ObserverKind::kReferenceHistogram;
  } else if (key.observer().find("Moving") != std::string::npos) {
    config.kind = ObserverKind::kEma;
  }
  return config;
}

MethodSpec MethodOf(const ObserverConfig& config) {
  return {config.kind == ObserverKind::kReferenceHistogram ? CalibrationMethod::kL2Greedy : CalibrationMethod::kMinMax};
}

TEST(ReferenceCalibrateGoldenTest, Megengine) {
  CountsByObserver counts;
  for (const GoldenLayer& layer : GoldenLayers()) {
    ObservedSteps observed;
    for (const auto& [text, expected] : layer.expected.at("megengine").items()) {
      SCOPED_TRACE(layer.name + " " + text);
      const Key key(text);
      const ObserverConfig config = ConfigOf(key, {EmaConvention::kMegengine, 0.9}, ReferenceRule::kMegengine);
      const auto result = Calibrate(observed.By(layer, config), MethodOf(config), key.Spec(QuantPreset::kMegengine));
      ASSERT_TRUE(result.ok()) << result.status();
      if (expected.contains("error")) {
        // All values are equal: that point and zero.
        EXPECT_EQ(result->clip[0], (ClipRange{0, layer.values.front()}));
        EXPECT_EQ(result->params[0], ParamsForRange(result->rules, {0, layer.values.front()}));
        ++counts[key.observer()].failed_there;
        continue;
      }
      const double scale = expected.at("scale").get<double>();
      EXPECT_NEAR(result->params[0].scale, scale, 1e-6 * scale);
      const auto& zero_point = expected.at("zero_point");
      EXPECT_EQ(static_cast<double>(result->params[0].zero_point), zero_point.is_null() ? 0 : zero_point.get<double>());
      ++counts[key.observer()].compared;
    }
  }
  EXPECT_EQ(counts, (CountsByObserver{{"MinMaxObserver", {108, 0}},
                                      {"SyncMinMaxObserver", {18, 0}},
                                      {"ExponentialMovingAverageObserver", {108, 0}},
                                      {"SyncExponentialMovingAverageObserver", {18, 0}},
                                      {"HistogramObserver", {96, 12}}}));
}

TEST(ReferenceCalibrateGoldenTest, Pytorch) {
  CountsByObserver counts;
  for (const GoldenLayer& layer : GoldenLayers()) {
    ObservedSteps observed;
    for (const auto& [text, expected] : layer.expected.at("torch").items()) {
      SCOPED_TRACE(layer.name + " " + text);
      const Key key(text);
      const ObserverConfig config = ConfigOf(key, {EmaConvention::kPytorch, 0.01}, ReferenceRule::kPytorch);
      const LayerStatistics& statistics = observed.By(layer, config);
      const auto result = Calibrate(statistics, MethodOf(config), key.Spec(QuantPreset::kPytorch));
      ASSERT_TRUE(result.ok()) << result.status();
      if (expected.contains("error")) {
        // int() of what lies beyond 2^63: the same cut, without overflow, loses next to nothing of the values' range.
        EXPECT_EQ(layer.name, "syn_huge");
        const Range& range = statistics.channels()[0].range;
        EXPECT_GT(result->clip[0].max - result->clip[0].min, 0.5 * (double{range.max} - range.min));
        EXPECT_LT(result->clip[0].max - result->clip[0].min, 1.01 * (double{range.max} - range.min));
        ++counts[key.observer()].failed_there;
        continue;
      }
      const auto scales = expected.at("scale").get<std::vector<double>>();
      const auto zero_points = expected.at("zero_point").get<std::vector<int64_t>>();
      ASSERT_EQ(result->params.size(), scales.size());
      for (size_t i = 0; i < scales.size(); ++i) {
        EXPECT_NEAR(result->params[i].scale, scales[i], 1e-6 * scales[i]) << i;
        EXPECT_EQ(result->params[i].zero_point, zero_points[i]) << i;
      }
      ++counts[key.observer()].compared;
    }
  }
  EXPECT_EQ(counts, (CountsByObserver{{"MinMaxObserver", {72, 0}},
                                      {"PerChannelMinMaxObserver", {8, 0}},
                                      {"MovingAverageMinMaxObserver", {72, 0}},
                                      {"MovingAveragePerChannelMinMaxObserver", {8, 0}},
                                      {"HistogramObserver", {45, 3}}}));
}

TEST(ReferenceCalibrateGoldenTest, Mxnet) {
  CountsByObserver counts;
  ObserverConfig config;
  config.kind = ObserverKind::kReferenceHistogram;
  config.reference.rule = ReferenceRule::kMxnet;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = test::FoldLayer(layer, config);
    const ReferenceGrid& grid = statistics.channels()[0].reference->grid();
    for (const auto& [text, expected] : layer.expected.at("mxnet").items()) {
      SCOPED_TRACE(layer.name + " " + text);
      const double low = expected.at("min").get<double>(), high = expected.at("max").get<double>();
      QuantSpec spec;
      spec.preset = QuantPreset::kMxnet;
      if (text == "naive") {
        const auto result = Calibrate(statistics, {CalibrationMethod::kMinMax}, spec);
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_EQ(result->range.min, low);
        EXPECT_EQ(result->range.max, high);
        EXPECT_EQ(result->clip[0], (ClipRange{std::min(low, 0.0), std::max(high, 0.0)}));
        ++counts[text].compared;
        continue;
      }
      const std::string type = text.substr(text.find('/') + 1);
      spec.type = *ParseQuantType(type == "auto" ? "auto8" : type);
      const auto result = Calibrate(statistics, {CalibrationMethod::kEntropy}, spec);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(grid.bins, expected.at("bins").get<uint32_t>());
      EXPECT_EQ(grid.high, expected.at("range").get<double>());
      const double bin = 2 * grid.high / grid.bins;
      EXPECT_NEAR(result->clip[0].max, high, bin);
      EXPECT_NEAR(result->clip[0].min, low, bin);
      EXPECT_EQ(result->clip[0].min == 0, low == 0);
      const double codes = type != "int8" && low == 0 ? 255 : 127;
      if (type != "uint8" || low == 0) {  // MXNet has no uint8 for a layer with negative values
        EXPECT_NEAR(result->params[0].scale, high / codes, bin / codes);
      }
      ++counts["entropy"].compared;
    }
  }
  EXPECT_EQ(counts, (CountsByObserver{{"entropy", {48, 0}}, {"naive", {16, 0}}}));
}

// The share of values that the outermost bins of numpy.histogram may hold, MegEngine's histogram_bins rule. The entry
// is the amplitude / 127.
TEST(ReferenceCalibrateGoldenTest, CoverageOfAHundredBins) {
  int compared = 0;
  ObserverConfig config;
  config.kind = ObserverKind::kReferenceHistogram;
  config.reference = {ReferenceRule::kMegengine, 100};
  MethodSpec method{CalibrationMethod::kCoverage};
  method.coverage = 0.99;
  QuantSpec spec;
  spec.preset = QuantPreset::kTensorrt;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const auto result = Calibrate(test::FoldLayer(layer, config, /*whole=*/true), method, spec);
    ASSERT_TRUE(result.ok()) << result.status();
    if (!layer.expected.contains("histogram_coverage_0.99/100bins")) {
      // One point: there is no bin to drop.
      EXPECT_EQ(result->clip[0], (ClipRange{0, layer.values.front()})) << layer.name;
      continue;
    }
    const double scale = layer.expected.at("histogram_coverage_0.99/100bins").get<double>();
    EXPECT_NEAR(result->params[0].scale, scale, 1e-6 * scale) << layer.name;
    ++compared;
  }
  EXPECT_EQ(compared, static_cast<int>(GoldenLayers().size()) - 2);
}

}  // namespace
}  // namespace calib
