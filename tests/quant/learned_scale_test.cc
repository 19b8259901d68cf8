// Where learning starts: LSQ's and LSQ+'s initial scales, and the gradient factor.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/learned.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

TEST(LearnedScaleTest, GradFactor) {
  EXPECT_DOUBLE_EQ(LsqGradFactor(100, 127), 1 / std::sqrt(12700.0));
  EXPECT_EQ(LsqGradFactor(1, 1), 1);
  EXPECT_GT(LsqGradFactor(uint64_t{1} << 63, 255), 0);
}

// Mean of magnitudes, mean and standard deviation by the raw values.
struct Moments {
  double magnitude = 0, mean = 0, sigma = 0;
};

Moments MomentsOf(const std::vector<float>& values) {
  const double count = static_cast<double>(values.size());
  Moments result;
  for (const double x : values) {
    result.magnitude += std::abs(x) / count;
    result.mean += x / count;
  }
  double squares = 0;
  for (const double x : values) squares += (x - result.mean) * (x - result.mean);
  result.sigma = std::sqrt(squares / count);
  return result;
}

TEST(LearnedScaleTest, InitialScalesOfGoldenLayers) {
  QuantRules rules;  // int8
  for (const test::GoldenLayer& layer : test::GoldenLayers()) {
    const LayerStatistics statistics = test::ObserveValues(layer.values);
    const BinModel model(statistics.channels().front());
    const Moments moments = MomentsOf(layer.values);
    const double lsq = 2 * moments.magnitude / std::sqrt(127.0);
    const double plus =
        std::max(std::abs(moments.mean - 3 * moments.sigma), std::abs(moments.mean + 3 * moments.sigma)) / 128;
    EXPECT_NEAR(LsqInitialScale(model, 127), lsq, lsq * std::ldexp(1.0, -8)) << layer.name;
    EXPECT_NEAR(LsqPlusInitialScale(model, rules), plus, plus * std::ldexp(1.0, -7)) << layer.name;
  }
}

TEST(LearnedScaleTest, InitialScalesOfLosslessHistogramsAreExact) {
  const LayerStatistics statistics = test::ObserveValues({1, -1, 3, -0.5f, 0, 0, 2, 2.5f});
  const BinModel model(statistics.channels().front());
  EXPECT_DOUBLE_EQ(LsqInitialScale(model, 4), 10.0 / 8);
  EXPECT_EQ(model.positive().magnitude_sum(), 8.5);
  EXPECT_EQ(model.negative().magnitude_sum(), 1.5);
  QuantRules rules;
  rules.qmin = -8;
  rules.qmax = 7;
  const double mean = 7.0 / 8, sigma = std::sqrt(21.5 / 8 - mean * mean);
  EXPECT_DOUBLE_EQ(LsqPlusInitialScale(model, rules), (mean + 3 * sigma) / 8);
}

TEST(LearnedScaleTest, InitialScalesOfConstants) {
  const LayerStatistics constant = test::ObserveValues({-3.3f, -3.3f, -3.3f}), zero = test::ObserveValues({0, 0});
  const BinModel constant_model(constant.channels().front()), zero_model(zero.channels().front());
  QuantRules rules;
  EXPECT_NEAR(LsqPlusInitialScale(constant_model, rules), double{3.3f} / 128, 1e-8);
  EXPECT_NEAR(LsqInitialScale(constant_model, 121), 2 * double{3.3f} / 11, 1e-12);
  EXPECT_EQ(LsqPlusInitialScale(zero_model, rules), 0);
  EXPECT_EQ(LsqInitialScale(zero_model, 127), 0);
}

}  // namespace
}  // namespace calib
