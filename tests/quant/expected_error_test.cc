#include "quant/expected_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/calibrate.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;
using test::Measure;
using test::ObserveValues;

TEST(ExpectedErrorTest, SumsAndShares) {
  ExpectedError a{10, 5, 500, 1}, b{30, 3, 300, 1};
  a.Add(b);
  EXPECT_EQ(a.count, 40);
  EXPECT_EQ(a.mse(), 0.2);
  EXPECT_EQ(a.clipped(), 0.05);
  EXPECT_DOUBLE_EQ(a.sqnr_db(), 20);
}

TEST(ExpectedErrorTest, NothingCostsNothing) {
  const ExpectedError none;
  EXPECT_EQ(none.mse(), 0);
  EXPECT_EQ(none.clipped(), 0);
  EXPECT_EQ(none.sqnr_db(), std::numeric_limits<double>::infinity());
}

TEST(ExpectedErrorTest, SaturatedIsMoreThanHalfAStepOutside) {
  const LayerStatistics statistics = ObserveValues({127, 127.5, 128, 129, -128, -129, -130, 0});  // all are bfloat16
  const BinModel model(statistics.channels().front());
  QuantRules rules;
  EXPECT_EQ(EvaluateError(model, rules, {1, 0}).saturated, 4);  // 128, 129, -129 and -130
  EXPECT_EQ(EvaluateError(model, rules, {1, 0}).squared_error, 0.25 + 1 + 4 + 1 + 4);
  EXPECT_EQ(EvaluateError(model, rules, {1, -128}).saturated, 3);  // 0 to 255: all negatives
}

// An extreme that lies exactly half a step outside the codes, as under pytorch's divisor of 127.5, is not saturated,
// whichever way float32 rounds the scale.
TEST(ExpectedErrorTest, MinMaxClipsNothing) {
  std::vector<std::vector<float>> tensors;
  for (const float constant : {3.3f, 6.0f, 0.1f, 7.7e-12f, -3.3f, -1e30f, 1.0f / 3})
    tensors.push_back({constant, constant});
  tensors.emplace_back();
  for (int i = 0; i < 1000; ++i) {
    tensors.back().push_back(i % 5 == 0 ? 3.3f : -3.3f * static_cast<float>(i) / 1001);
  }
  for (const std::vector<float>& values : tensors) {
    const LayerStatistics statistics = ObserveValues(values);
    for (const QuantPreset preset : {QuantPreset::kPytorch, QuantPreset::kTensorrt, QuantPreset::kOnnxruntime}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        for (const char* type : {"int2", "int8", "int16"}) {
          QuantSpec spec = test::MakeSpec(type, scheme, preset);
          if (!ResolveSpec(spec).ok()) continue;
          if (std::abs(values[0]) < 1e-6f && preset == QuantPreset::kPytorch) continue;  // its floor is wider
          const auto result = Calibrate(statistics, {CalibrationMethod::kMinMax}, spec);
          ASSERT_TRUE(result.ok()) << result.status();
          EXPECT_EQ(result->error->clipped(), 0) << values[0] << " " << type;
          EXPECT_EQ(Measure(values, result->rules, result->params[0]).saturated, 0) << values[0] << " " << type;
        }
      }
    }
  }
}

// The error that the histogram predicts against the error of quantizing the raw values.
TEST(ExpectedErrorTest, PredictsTheMeasuredError) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    if (layer.values.size() < 10000) continue;
    const LayerStatistics statistics = ObserveValues(layer.values);
    for (const char* type : {"int4", "int8"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        for (const CalibrationMethod method : {CalibrationMethod::kMinMax, CalibrationMethod::kPercentile,
                                               CalibrationMethod::kCoverage, CalibrationMethod::kMse}) {
          QuantSpec spec = test::MakeSpec(type, scheme);
          MethodSpec method_spec;
          method_spec.method = method;
          const auto result = Calibrate(statistics, method_spec, spec);
          ASSERT_TRUE(result.ok()) << result.status();
          const test::MeasuredError measured = Measure(layer.values, result->rules, result->params[0]);
          const std::string what = layer.name + " " + type +
                                   (scheme == QuantScheme::kAffine ? " affine " : " symmetric ") +
                                   std::string(MethodName(method));
          // Layers computed from few distinct inputs repeat values exactly; that is what the bins cannot show.
          const double tolerance = spec.type.bits == 4 ? 0.005 : 0.015;
          EXPECT_NEAR(result->error->squared_error, measured.squared_error,
                      tolerance * measured.squared_error + 1e-14 * measured.square_sum)
              << what;
          EXPECT_NEAR(result->error->square_sum, measured.square_sum, 1e-3 * measured.square_sum) << what;
          EXPECT_NEAR(result->error->clipped(), measured.saturated / static_cast<double>(layer.values.size()), 5e-4)
              << what;
        }
      }
    }
  }
}

}  // namespace
}  // namespace calib
