#include "quant/methods.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "quant/expected_error.h"
#include "tests/quant/methods_test_util.h"
#include "tests/support/random_tensors.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;
using test::Measure;
using test::ObserveValues;
using test::RawSearch;
using ::testing::HasSubstr;

BinModel Model(const std::vector<float>& values, int mantissa_bits = 7) {
  return BinModel(ObserveValues(values, mantissa_bits).channels().front());
}

QuantRules FlooredRules(absl::string_view type, QuantScheme scheme) {
  QuantRules rules = *ResolveSpec(test::MakeSpec(type, scheme));
  rules.scale_floor = FLT_MIN;
  return rules;
}

// numpy.percentile of sorted values.
double NumpyPercentile(const std::vector<double>& values, double percentile) {
  const double place = static_cast<double>(values.size() - 1) * percentile / 100;
  const size_t rank = static_cast<size_t>(place);
  const double next = values[std::min(rank + 1, values.size() - 1)];
  return values[rank] + (place - static_cast<double>(rank)) * (next - values[rank]);
}

TEST(MethodSpecTest, NamesReadBack) {
  for (const char* name : {"minmax", "percentile", "coverage", "mse", "entropy", "l2_greedy", "lsq", "lsq_plus"}) {
    const auto method = ParseMethod(name);
    ASSERT_TRUE(method.ok()) << name;
    EXPECT_EQ(MethodName(*method), name);
    EXPECT_EQ(NeedsHistogram(*method), absl::string_view(name) != "minmax");
  }
  EXPECT_EQ(ParseMethod("entropie").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ParseMethod("entropie").status().message()),
              HasSubstr("minmax, percentile, coverage, mse, entropy, l2_greedy, lsq or lsq_plus"));
}

TEST(MethodSpecTest, RefusesParametersOutsideTheirRange) {
  for (const double bad : {0.0, -1.0, 100.5, std::nan(""), HUGE_VAL}) {
    MethodSpec method{CalibrationMethod::kPercentile};
    method.percentile = bad;
    EXPECT_EQ(CheckMethod(method).code(), absl::StatusCode::kInvalidArgument) << bad;
    method = {CalibrationMethod::kCoverage};
    method.coverage = bad;
    EXPECT_EQ(CheckMethod(method).code(), absl::StatusCode::kInvalidArgument) << bad;
    method = {CalibrationMethod::kMse};
    method.norm = bad;
    EXPECT_EQ(CheckMethod(method).code(), absl::StatusCode::kInvalidArgument) << bad;
    method.percentile = method.coverage = bad;
    method.method = CalibrationMethod::kMinMax;  // reads none
    EXPECT_EQ(CheckMethod(method), absl::OkStatus());
  }
  MethodSpec method{CalibrationMethod::kPercentile};
  method.percentile = 100;
  EXPECT_EQ(CheckMethod(method), absl::OkStatus());
}

TEST(MinMaxRangeTest, IncludesZero) {
  Range range;
  range.count = 2;
  range.min = 2;
  range.max = 3;
  EXPECT_EQ(MinMaxRange(range), (ClipRange{0, 3}));
  range.min = -3;
  range.max = -2;
  EXPECT_EQ(MinMaxRange(range), (ClipRange{-3, 0}));
}

TEST(PercentileRangeTest, IsWithinAHalfBinOfNumpy) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    std::vector<double> values(layer.values.begin(), layer.values.end());
    std::vector<double> magnitudes = values;
    for (double& x : magnitudes) x = std::abs(x);
    std::sort(values.begin(), values.end());
    std::sort(magnitudes.begin(), magnitudes.end());
    for (const int mantissa_bits : {7, 5}) {
      const BinModel model = Model(layer.values, mantissa_bits);
      const double relative = std::ldexp(1.0, -mantissa_bits - 1);
      for (const double percentile : {50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 100.0}) {
        const std::string what =
            layer.name + " " + std::to_string(percentile) + " bits " + std::to_string(mantissa_bits);
        const double amplitude = NumpyPercentile(magnitudes, percentile);
        EXPECT_NEAR(PercentileRange(model, true, percentile).max, amplitude, amplitude * relative) << what;
        EXPECT_EQ(PercentileRange(model, true, percentile).min, -PercentileRange(model, true, percentile).max) << what;
        const double cut = (100 - percentile) / 2;
        const double low = std::min(0.0, NumpyPercentile(values, cut)),
                     high = std::max(0.0, NumpyPercentile(values, 100 - cut));
        const ClipRange range = PercentileRange(model, false, percentile);
        EXPECT_NEAR(range.min, low, -low * relative) << what;
        EXPECT_NEAR(range.max, high, high * relative) << what;
      }
    }
  }
}

TEST(PercentileRangeTest, OneSidedCutsOnlyAbove) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    std::vector<double> values(layer.values.begin(), layer.values.end());
    std::sort(values.begin(), values.end());
    const BinModel model = Model(layer.values);
    for (const double percentile : {50.0, 99.0, 99.99, 100.0}) {
      const double high = std::max(0.0, NumpyPercentile(values, percentile));
      const ClipRange range = PercentileRange(model, false, percentile, true);
      EXPECT_EQ(range.min, std::min(0.0, values.front())) << layer.name;
      EXPECT_NEAR(range.max, high, high * 0x1p-8) << layer.name << " " << percentile;
      EXPECT_EQ(PercentileRange(model, true, percentile, true), PercentileRange(model, true, percentile));
    }
  }
}

TEST(PercentileRangeTest, IsExactWhenLosslessAndAtTheExtremes) {
  const std::vector<float> values = {-4, -2, 0, 0, 1, 1.5f, 2, 3, 3, 8};
  const std::vector<double> doubles(values.begin(), values.end());
  const BinModel model = Model(values);
  for (double percentile = 1; percentile <= 100; percentile += 0.5) {
    const ClipRange range = PercentileRange(model, false, percentile);
    const double cut = (100 - percentile) / 2;
    EXPECT_NEAR(range.min, std::min(0.0, NumpyPercentile(doubles, cut)), 1e-12) << percentile;
    EXPECT_NEAR(range.max, std::max(0.0, NumpyPercentile(doubles, 100 - cut)), 1e-12) << percentile;
  }
  const BinModel lossy = Model({-1.0001f, 0.3f, 2.0001f});
  EXPECT_EQ(PercentileRange(lossy, false, 100), (ClipRange{-1.0001f, 2.0001f}));
}

// Error of MseRange's parameters on the raw values, over the least error of any of `tries` scales, and of
// those about the best of them, with any zero point.
double RatioToBruteForce(const std::vector<float>& values, const RawSearch& raw, absl::string_view type,
                         QuantScheme scheme, int tries) {
  const QuantRules rules = FlooredRules(type, scheme);
  const QParams params = ParamsForRange(rules, MseRange(Model(values), rules));
  const int64_t steps = rules.qmax - rules.qmin;
  const double full = rules.symmetric ? std::max(raw.max() / static_cast<double>(rules.qmax),
                                                 raw.min() / static_cast<double>(rules.qmin))
                                      : (raw.max() - raw.min()) / static_cast<double>(steps);
  double best = HUGE_VAL, best_scale = 0;
  const auto attempt = [&](double scale) {
    const double error = rules.symmetric ? raw.Error(scale, rules.qmin, rules.qmax) : raw.BestAffine(scale, steps);
    if (error >= best) return;
    best = error;
    best_scale = scale;
  };
  double stride = full * 1.2 / tries;
  for (int i = 1; i <= tries; ++i) attempt(stride * i);
  // About the best grid point, ever finer.
  for (int round = 0; round < 3; ++round) {
    const double middle = best_scale;
    stride /= 4;
    for (int i = -3; i <= 3; ++i) attempt(middle + stride * i);
  }
  return Measure(values, rules, params).squared_error / best;
}

TEST(MseRangeTest, IsWithinOnePerCentOfBruteForceOnGoldenLayers) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    if (layer.name == "syn_zero" || layer.name == "syn_const") continue;  // both errors are rounding
    const double limit = layer.values.size() < 10000 ? 1.05 : 1.01;
    const RawSearch raw(layer.values);
    for (const char* type : {"int2", "int3", "int4", "int8"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        EXPECT_LE(RatioToBruteForce(layer.values, raw, type, scheme, 200), limit)
            << layer.name << " " << type << (scheme == QuantScheme::kAffine ? " affine" : " symmetric");
      }
    }
  }
}

std::vector<float> Mixture(size_t count, double outliers, float outlier, uint64_t seed) {
  test::Rng rng(seed);
  std::normal_distribution<float> gauss;
  std::bernoulli_distribution far(outliers);
  std::vector<float> values(count);
  for (float& x : values) x = gauss(rng) * (far(rng) ? outlier : 1);
  return values;
}

TEST(MseRangeTest, IsWithinOnePerCentOfBruteForceOnMixtures) {
  for (const float outlier : {3.0f, 30.0f, 1000.0f}) {
    const std::vector<float> values = Mixture(50000, 0.001, outlier, 3);
    const RawSearch raw(values);
    for (const char* type : {"int2", "uint4", "uint8"}) {
      EXPECT_LE(RatioToBruteForce(values, raw, type, QuantScheme::kAffine, 400), 1.01) << outlier << " " << type;
    }
  }
}

TEST(MseRangeTest, IsWithinOnePerCentOfBruteForceAtSixteenBits) {
  for (const float outlier : {1.0f, 30.0f}) {
    const std::vector<float> values = Mixture(50000, 0.001, outlier, 4);
    const RawSearch raw(values);
    EXPECT_LE(RatioToBruteForce(values, raw, "int16", QuantScheme::kSymmetric, 12), 1.01) << outlier;
    EXPECT_LE(RatioToBruteForce(values, raw, "uint16", QuantScheme::kAffine, 12), 1.01) << outlier;
  }
}

TEST(MseRangeTest, ExpectedErrorIsNeverAboveOtherMethods) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    const BinModel model(statistics.channels().front());
    for (const char* type : {"int2", "uint3", "int4", "int8", "uint8", "int16"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        const QuantRules rules = FlooredRules(type, scheme);
        const auto error = [&](const ClipRange& range) {
          return EvaluateError(model, rules, ParamsForRange(rules, range)).squared_error;
        };
        const double least = error(MseRange(model, rules));
        for (const ClipRange& other :
             {MinMaxRange(statistics.channels().front().range), PercentileRange(model, rules.symmetric, 99.99),
              PercentileRange(model, rules.symmetric, 99), CoverageRange(model, 0.9999), CoverageRange(model, 0.99)}) {
          EXPECT_LE(least, error(other) * 1.001 + 1e-13 * model.square_sum()) << layer.name << " " << type;
        }
      }
    }
  }
}

TEST(MseRangeTest, FindsTheLattice) {
  // Multiples of 1/16 up to 1: no error at 112 steps, which minmax with 127.5 misses.
  std::vector<float> values;
  for (int i = 0; i <= 16; ++i) values.insert(values.end(), 100, static_cast<float>(i) / 16);
  const QuantRules rules = FlooredRules("int8", QuantScheme::kSymmetric);
  const BinModel model = Model(values);
  const ExpectedError error = EvaluateError(model, rules, ParamsForRange(rules, MseRange(model, rules)));
  EXPECT_LT(error.squared_error, 1e-12 * error.square_sum);
}

TEST(MseRangeTest, PrefersTheNarrowestRangeThatHoldsAllOnTies) {
  const QuantRules rules = FlooredRules("int8", QuantScheme::kSymmetric);
  const ClipRange range = MseRange(Model({3.25f, 3.25f, 0}), rules);
  EXPECT_NEAR(ParamsForRange(rules, range).scale, 3.25f / 127, 1e-7);
}

TEST(MseRangeTest, DependsOnTheValuesOnly) {
  // The same values, in another order and in parts that are merged backwards.
  std::vector<float> values = Mixture(20000, 0.01, 10, 6);
  const BinModel model = Model(values);
  test::Rng rng(12);
  std::shuffle(values.begin(), values.end(), rng);
  LayerStatistics merged{ObserverConfig{}};
  size_t end = values.size();
  for (const size_t begin : {15001, 15000, 3000, 7, 0}) {
    merged.Merge(
        ObserveValues({values.begin() + static_cast<ptrdiff_t>(begin), values.begin() + static_cast<ptrdiff_t>(end)}));
    end = begin;
  }
  const BinModel other(merged.channels().front());
  for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
    for (const double norm : {2.0, 2.4}) {
      const QuantRules rules = FlooredRules("int8", scheme);
      EXPECT_EQ(MseRange(model, rules, norm), MseRange(other, rules, norm));
    }
  }
  EXPECT_EQ(CoverageRange(model, 0.99), CoverageRange(other, 0.99));
  EXPECT_EQ(PercentileRange(model, false, 99), PercentileRange(other, false, 99));
}

// What no code can reach costs the same whatever the scale, and must not drown what can be reached.
TEST(MseRangeTest, ValuesOutOfReachOfAllCodesDecideNothing) {
  const QuantRules rules = *ResolveSpec(test::MakeSpec("uint8", QuantScheme::kSymmetric, QuantPreset::kTensorrt));
  std::vector<float> values = Mixture(5000, 0.01, 10, 9);
  for (float& x : values) x = std::abs(x);
  for (const std::vector<float>& reached : {std::vector<float>(100, 1.0f), values}) {
    std::vector<float> all = reached;
    all.push_back(-1e10f);
    for (const double norm : {1.0, 2.0, 2.4, 8.0}) {
      EXPECT_EQ(ParamsForRange(rules, MseRange(Model(all), rules, norm)),
                ParamsForRange(rules, MseRange(Model(reached), rules, norm)))
          << reached.size() << " " << norm;
    }
  }
}

TEST(MseRangeTest, RespectsTheFloorOfTheRules) {
  QuantRules rules = FlooredRules("int8", QuantScheme::kSymmetric);
  rules.scale_floor = FLT_EPSILON;
  EXPECT_GE(ParamsForRange(rules, MseRange(Model(Mixture(1000, 0, 1, 7)), rules)).scale, FLT_EPSILON);
  std::vector<float> tiny = Mixture(1000, 0, 1, 7);
  for (float& x : tiny) x *= 1e-6f;
  EXPECT_GE(ParamsForRange(rules, MseRange(Model(tiny), rules)).scale, FLT_EPSILON);
}

}  // namespace
}  // namespace calib
