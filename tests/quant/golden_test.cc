// What reference systems compute from the golden layers, against what calibration gives for the same values.

#include <gtest/gtest.h>

#include <cmath>

#include "quant/calibrate.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;
using test::MakeSpec;
using test::Measure;
using test::ObserveValues;

TEST(GoldenTest, ExtremesAndCounts) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    const Range& range = statistics.channels().front().range;
    EXPECT_EQ(range.min, layer.expected.at("min").get<double>()) << layer.name;
    EXPECT_EQ(range.max, layer.expected.at("max").get<double>()) << layer.name;
    EXPECT_EQ(range.count, layer.expected.at("numpy").at("count").get<uint64_t>()) << layer.name;
  }
}

TEST(GoldenTest, MinMaxParametersEqualPytorch) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    for (const char* type : {"int8", "uint8"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        const bool affine = scheme == QuantScheme::kAffine;
        const std::string key = std::string("MinMaxObserver/q") + type + (affine ? "/affine" : "/symmetric");
        if (!layer.expected.at("torch").contains(key)) continue;
        const auto& expected = layer.expected.at("torch").at(key);
        const auto result = Calibrate(statistics, {CalibrationMethod::kMinMax}, MakeSpec(type, scheme));
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_EQ(result->params.at(0).scale, expected.at("scale").at(0).get<float>()) << layer.name << " " << key;
        EXPECT_EQ(result->params.at(0).zero_point, expected.at("zero_point").at(0).get<int64_t>())
            << layer.name << " " << key;
        EXPECT_EQ(result->range.min, expected.at("min").get<float>()) << layer.name;
        EXPECT_EQ(result->range.max, expected.at("max").get<float>()) << layer.name;
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 4 * static_cast<int>(GoldenLayers().size()));
}

TEST(GoldenTest, PerChannelParametersEqualPytorch) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const std::string key = "PerChannelMinMaxObserver/qint8/symmetric/axis1";
    if (!layer.expected.at("torch").contains(key)) continue;
    // All steps, one after the other along the batch axis.
    auto shape = layer.expected.at("shape").get<std::vector<uint64_t>>();
    shape[0] *= layer.expected.at("batches").get<uint64_t>();
    ObserverConfig config;
    config.channel_axis = 1;
    QuantSpec spec = MakeSpec("int8", QuantScheme::kSymmetric);
    spec.granularity = QuantGranularity::kPerChannel;
    const auto result = Calibrate(test::ObserveLayer(layer.values, shape, config), {CalibrationMethod::kMinMax}, spec);
    ASSERT_TRUE(result.ok()) << result.status();
    std::vector<float> scales;
    for (const QParams& params : result->params) scales.push_back(params.scale);
    EXPECT_EQ(scales, layer.expected.at("torch").at(key).at("scale").get<std::vector<float>>()) << layer.name;
    ++compared;
  }
  EXPECT_GE(compared, 8);
}

TEST(GoldenTest, TensorrtScaleIsAmplitudeOver127) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    const auto result = Calibrate(statistics, {CalibrationMethod::kMinMax},
                                  MakeSpec("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt));
    ASSERT_TRUE(result.ok()) << result.status();
    const float amplitude =
        std::max(std::abs(layer.expected.at("min").get<float>()), std::abs(layer.expected.at("max").get<float>()));
    EXPECT_EQ(result->params.at(0).scale, amplitude == 0 ? 1.0f : amplitude / 127.0f) << layer.name;
    EXPECT_EQ(result->params.at(0).zero_point, 0);
  }
}

TEST(GoldenTest, PercentilesOfMagnitudes) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    for (const auto& [percentile, key] : {std::pair(99.99, "percentile_abs_99.99"), {99.9, "percentile_abs_99.9"}}) {
      MethodSpec method{CalibrationMethod::kPercentile};
      method.percentile = percentile;
      const auto result = Calibrate(statistics, method, MakeSpec("int8", QuantScheme::kSymmetric));
      ASSERT_TRUE(result.ok()) << result.status();
      const double expected = layer.expected.at("numpy").at(key).get<double>();
      EXPECT_NEAR(result->clip.at(0).max, expected, expected * std::ldexp(1.0, -8)) << layer.name << " " << key;
    }
  }
}

// The reference's search has the codes [-qmax - 1, qmax], like pytorch's rules. On layers of more than 200,000 values
// it tried its scales on a sample of them, so there its best scale is measured anew on all.
TEST(GoldenTest, MseIsWithinOnePerCentOfBruteForce) {
  constexpr size_t kSampledAbove = 200000;
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    for (const char* type : {"int8", "int4"}) {
      const std::string key = std::string("brute_force_mse_") + type + "_symmetric";
      if (!layer.expected.contains(key)) continue;
      const auto& brute_force = layer.expected.at(key);
      const auto result = Calibrate(statistics, {CalibrationMethod::kMse}, MakeSpec(type, QuantScheme::kSymmetric));
      ASSERT_TRUE(result.ok()) << result.status();
      const double count = static_cast<double>(layer.values.size());
      const test::MeasuredError measured = Measure(layer.values, result->rules, result->params.at(0));
      const test::MeasuredError reference =
          Measure(layer.values, result->rules, {brute_force.at("scale").get<float>(), 0});
      const double noise = 1e-14 * measured.square_sum / count;
      double limit = brute_force.at("mse").get<double>();
      if (layer.values.size() <= kSampledAbove) {
        // A lattice is met or missed by the last bits of the scale, which float32 does not keep.
        if (layer.name != "input") {
          EXPECT_NEAR(reference.squared_error / count, limit, 1e-5 * limit + noise) << layer.name << " " << key;
        }
      } else {
        limit = std::min(reference.squared_error / count, limit * 1.05);
      }
      EXPECT_LE(measured.squared_error / count, limit * (layer.values.size() < 10000 ? 1.05 : 1.01) + noise)
          << layer.name << " " << key;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 2 * (static_cast<int>(GoldenLayers().size()) - 1));  // all but syn_zero
}

}  // namespace
}  // namespace calib
