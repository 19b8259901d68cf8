#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "quant/methods.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;
using test::ObserveValues;

BinModel CoverageModel(const std::vector<float>& values) { return BinModel(ObserveValues(values).channels().front()); }

TEST(CoverageRangeTest, DropsTheLighterEndWhileEnoughIsKept) {
  // Lossless: bins at -2 (1 value), -1 (3), 0 (10), 1 (5), 2 (1).
  std::vector<float> values = {-2, -1, -1, -1, 2};
  values.insert(values.end(), 10, 0.0f);
  values.insert(values.end(), 5, 1.0f);
  const BinModel model = CoverageModel(values);
  EXPECT_EQ(CoverageRange(model, 1), (ClipRange{-2, 2}));
  EXPECT_EQ(CoverageRange(model, 0.95), (ClipRange{-2, 1}));  // equal ends: the upper goes first
  EXPECT_EQ(CoverageRange(model, 0.90), (ClipRange{-1, 1}));
  EXPECT_EQ(CoverageRange(model, 0.75), (ClipRange{0, 1}));
  EXPECT_EQ(CoverageRange(model, 0.5), (ClipRange{0, 0}));
  EXPECT_EQ(CoverageRange(model, 1e-9), (ClipRange{0, 0}));
}

std::vector<float> Negated(std::vector<float> values) {
  for (float& x : values) x = 0 - x;
  return values;
}

TEST(CoverageRangeTest, MirroredValuesGiveTheMirroredRange) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const BinModel model = CoverageModel(layer.values), mirror = CoverageModel(Negated(layer.values));
    for (const double coverage : {0.5, 0.9, 0.99, 0.999, 0.9999, 1.0}) {
      const ClipRange range = CoverageRange(model, coverage), mirrored = CoverageRange(mirror, coverage);
      EXPECT_EQ(mirrored, (ClipRange{0 - range.max, 0 - range.min})) << layer.name << " " << coverage;
    }
  }
}

// What is dropped on zero's side can't shrink a range that includes zero, so nothing is.
TEST(CoverageRangeTest, OneSidedDataLosesOnlyItsFarEnd) {
  std::vector<float> values;
  for (int i = 1; i <= 100; ++i) values.push_back(static_cast<float>(i));
  values.insert(values.end(), 50, 100.0f);
  EXPECT_EQ(CoverageRange(CoverageModel(values), 0.9), (ClipRange{0, 100}));  // 51 at 100
  EXPECT_EQ(CoverageRange(CoverageModel(Negated(values)), 0.9), (ClipRange{-100, 0}));
  values.insert(values.end(), {150, 200, 300});
  EXPECT_EQ(CoverageRange(CoverageModel(values), 0.985), (ClipRange{0, 150}));
  EXPECT_EQ(CoverageRange(CoverageModel(Negated(values)), 0.985), (ClipRange{-150, 0}));
  for (const GoldenLayer& layer : GoldenLayers()) {
    if (layer.name != "syn_positive" && layer.name != "syn_negative") continue;
    std::vector<double> magnitudes;
    for (const float x : layer.values) magnitudes.push_back(std::abs(x));
    std::sort(magnitudes.begin(), magnitudes.end());
    const double last_kept = magnitudes[static_cast<size_t>(0.99 * static_cast<double>(magnitudes.size()))];
    const ClipRange range = CoverageRange(CoverageModel(layer.values), 0.99);
    const double end = layer.name == "syn_positive" ? range.max : -range.min;
    EXPECT_EQ(layer.name == "syn_positive" ? range.min : range.max, 0);
    // The end is that of the bin with the last value that has to stay.
    EXPECT_GE(end, last_kept) << layer.name;
    EXPECT_LE(end, last_kept * (1 + 0x1p-6)) << layer.name;
    EXPECT_EQ(end, 6.65625) << layer.name;
  }
}

TEST(CoverageRangeTest, KeepsTheShareOnGoldenLayers) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const BinModel model = CoverageModel(layer.values);
    for (const double coverage : {0.5, 0.9, 0.99, 0.9999, 1.0}) {
      const ClipRange range = CoverageRange(model, coverage);
      const auto inside = std::count_if(layer.values.begin(), layer.values.end(),
                                        [&](float x) { return x >= range.min && x <= range.max; });
      EXPECT_GE(static_cast<double>(inside), coverage * static_cast<double>(layer.values.size()))
          << layer.name << " " << coverage;
      EXPECT_GE(range.min, std::min(0.0, model.min()));
      EXPECT_LE(range.max, std::max(0.0, model.max()));
    }
    EXPECT_EQ(CoverageRange(model, 1), (ClipRange{std::min(0.0, model.min()), std::max(0.0, model.max())}))
        << layer.name;
  }
}

}  // namespace
}  // namespace calib
