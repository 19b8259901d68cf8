// The methods against each other, by the error measured on the raw values.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "quant/calibrate.h"
#include "tests/quant/methods_test_util.h"
#include "tests/support/sample.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;
using test::Measure;
using test::ObserveValues;

const std::vector<MethodSpec>& OtherMethods() {
  static const auto* const methods = [] {
    auto* result = new std::vector<MethodSpec>{{CalibrationMethod::kMinMax},   {CalibrationMethod::kPercentile},
                                               {CalibrationMethod::kCoverage}, {CalibrationMethod::kL2Greedy},
                                               {CalibrationMethod::kEntropy},  {CalibrationMethod::kEntropy}};
    result->back().entropy_variant = EntropyVariant::kTensorrt;
    return result;
  }();
  return *methods;
}

TEST(SearchComparisonTest, MseIsNeverWorseThanAnotherMethod) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    for (const char* type : {"int8", "int4"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        const QuantSpec spec = test::MakeSpec(type, scheme);
        const auto measured = [&](const MethodSpec& method) {
          const auto result = Calibrate(statistics, method, spec);
          EXPECT_TRUE(result.ok()) << result.status();
          return Measure(layer.values, result->rules, result->params.at(0));
        };
        const test::MeasuredError best = measured({CalibrationMethod::kMse});
        for (const MethodSpec& method : OtherMethods()) {
          // What rounding a scale to float32 makes is no difference.
          EXPECT_LE(best.squared_error, measured(method).squared_error * 1.005 + 1e-13 * best.square_sum)
              << layer.name << " " << type << (scheme == QuantScheme::kAffine ? " affine " : " symmetric ")
              << MethodName(method.method) << " " << static_cast<int>(method.entropy_variant);
          ++compared;
        }
      }
    }
  }
  EXPECT_EQ(compared, static_cast<int>(GoldenLayers().size()) * 2 * 2 * 6);
}

TEST(SearchComparisonTest, EveryMethodIsSaneOnGoldenLayers) {
  int asked = 0;
  test::Sample sample(7);
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = ObserveValues(layer.values);
    const Range& range = statistics.channels()[0].range;
    const double amplitude = std::max({0.0, -double{range.min}, double{range.max}});
    std::vector<MethodSpec> methods = OtherMethods();
    methods.push_back({CalibrationMethod::kMse});
    methods.push_back({CalibrationMethod::kLsq});
    methods.push_back({CalibrationMethod::kLsqPlus});
    for (const MethodSpec& method : methods) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        for (const char* type : {"int4", "int8", "uint8", "int12", "auto8"}) {
          const std::string what = layer.name + " " + std::string(MethodName(method.method)) + " " + type;
          const QuantSpec spec = test::MakeSpec(type, scheme);
          if (CheckCalibrate(statistics, method, spec) == CalibrateError::kSpecInvalid) continue;
          ++asked;
          if (!sample.Take()) continue;
          const auto result = Calibrate(statistics, method, spec);
          ASSERT_TRUE(result.ok()) << what << ": " << result.status();
          EXPECT_GT(result->params[0].scale, 0) << what;
          EXPECT_LE(result->clip[0].min, 0) << what;
          EXPECT_GE(result->clip[0].max, 0) << what;
          EXPECT_EQ(result->clip[0].max - result->clip[0].min > 0, amplitude > 0) << what;
          // Searches look inside the data, mse's lattice and LSQ+'s deviations a little beyond; LSQ's scale grows with
          // the square root of the codes.
          const double beyond = method.method == CalibrationMethod::kLsq
                                    ? 2.001 * std::sqrt(static_cast<double>(result->rules.qmax + 2))
                                    : 4.001;
          EXPECT_LE(std::max(-result->clip[0].min, result->clip[0].max), amplitude * beyond) << what;
          ASSERT_TRUE(result->error.has_value()) << what;
          EXPECT_GT(result->error->sqnr_db(), 0) << what;
        }
      }
    }
  }
  EXPECT_EQ(asked, static_cast<int>(GoldenLayers().size()) * 5 * (7 * 2 + 2));
}

}  // namespace
}  // namespace calib
