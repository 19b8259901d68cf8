// What mse finds from a histogram, against the best that any parameters reach on the raw values: a dense grid of
// scales, for affine types every zero point, for power-of-two scales every power of two.

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <functional>
#include <string>

#include "quant/calibrate.h"
#include "tests/quant/methods_test_util.h"
#include "tests/support/sample.h"

namespace calib {
namespace {

using test::GoldenLayer;
using test::GoldenLayers;

// At most this many values of a layer are tried, and then observed too.
constexpr size_t kMostValues = 20000;

std::vector<float> Sample(const std::vector<float>& values) {
  if (values.size() <= kMostValues) return values;
  std::vector<float> sample;
  const size_t stride = values.size() / kMostValues + 1;
  for (size_t i = 0; i < values.size(); i += stride) sample.push_back(values[i]);
  return sample;
}

// Sum of |x - quantized x|^norm on raw values.
double RawError(const std::vector<float>& values, const QuantRules& rules, const QParams& params, double norm) {
  const double scale = params.scale;
  const std::vector<double> numbers =
      IsFloat8(rules.kind) ? std::vector<double>(Float8Numbers(rules.kind).begin(), Float8Numbers(rules.kind).end())
                           : std::vector<double>();
  double sum = 0;
  for (const double x : values) {
    double quantized;
    if (numbers.empty()) {
      const double code = std::floor(x / scale + 0.5) + static_cast<double>(params.zero_point);
      quantized = scale * (std::clamp(code, static_cast<double>(rules.qmin), static_cast<double>(rules.qmax)) -
                           static_cast<double>(params.zero_point));
    } else {
      const double magnitude = std::abs(x) / scale;
      const auto above = std::lower_bound(numbers.begin(), numbers.end(), magnitude);
      double nearest = above == numbers.end() ? numbers.back() : *above;
      if (above != numbers.begin() && magnitude - *(above - 1) < std::abs(nearest - magnitude)) nearest = *(above - 1);
      quantized = std::copysign(nearest * scale, x);
    }
    sum += norm == 2 ? (x - quantized) * (x - quantized) : std::pow(std::abs(x - quantized), norm);
  }
  return sum;
}

struct ExhaustiveCase {
  const char* type;
  QuantScheme scheme;
  bool power_of_two;
};

// The least error over a grid. `wide` is the scale at which the codes just hold everything.
double LeastError(const std::vector<float>& values, const test::RawSearch& raw, const QuantRules& rules,
                  const ExhaustiveCase& which, double wide) {
  const auto at = [&](double scale) {
    const float rounded = static_cast<float>(scale);
    if (IsFloat8(rules.kind)) return RawError(values, rules, {rounded, 0}, 2);
    return rules.symmetric ? raw.Error(rounded, rules.qmin, rules.qmax)
                           : raw.BestAffine(rounded, rules.qmax - rules.qmin);
  };
  double least = HUGE_VAL;
  if (which.power_of_two) {
    const int greatest = static_cast<int>(std::ceil(std::log2(wide))) + 2;
    for (int i = greatest; i > greatest - 16; --i) least = std::min(least, at(std::exp2(i)));
    return least;
  }
  // FP8's error repeats by octaves, so that two of them have it all.
  const int tries = IsFloat8(rules.kind) ? 150 : 250;
  for (int i = 1; i <= tries; ++i) {
    least = std::min(least, at(IsFloat8(rules.kind) ? wide * std::exp2(1 - 3.0 * i / tries) : 1.2 * wide * i / tries));
  }
  return least;
}

class MseExhaustiveTest : public ::testing::TestWithParam<ExhaustiveCase> {};

TEST_P(MseExhaustiveTest, IsWithinOnePerCentOnGoldenLayers) {
  const ExhaustiveCase which = GetParam();
  QuantSpec spec = test::MakeSpec(which.type, which.scheme);
  spec.power_of_two_scale = which.power_of_two;
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    if (layer.name == "syn_zero" || layer.name == "syn_const") continue;  // both errors are rounding
    const std::vector<float> values = Sample(layer.values);
    const auto found = Calibrate(test::ObserveValues(values), {CalibrationMethod::kMse}, spec);
    ASSERT_TRUE(found.ok()) << found.status();
    const QuantRules& rules = found->rules;
    const test::RawSearch raw(values);
    const double wide = rules.symmetric ? std::max(raw.max(), -raw.min()) / static_cast<double>(rules.qmax)
                                        : (raw.max() - raw.min()) / static_cast<double>(rules.qmax - rules.qmin);
    const double least = LeastError(values, raw, rules, which, wide);
    const double limit = layer.values.size() < 10000 ? 1.05 : 1.01;
    const double error = RawError(values, rules, found->params[0], 2);
    EXPECT_LE(error, limit * least + 1e-13 * found->error->square_sum) << layer.name;
    RecordProperty(layer.name, std::to_string(error / least));
    ++compared;
  }
  EXPECT_EQ(compared, static_cast<int>(GoldenLayers().size()) - 2);
}

INSTANTIATE_TEST_SUITE_P(
    Types, MseExhaustiveTest,
    ::testing::Values(
        ExhaustiveCase{"int8", QuantScheme::kSymmetric, false}, ExhaustiveCase{"int8", QuantScheme::kAffine, false},
        ExhaustiveCase{"int8", QuantScheme::kSymmetric, true}, ExhaustiveCase{"int8", QuantScheme::kAffine, true},
        ExhaustiveCase{"int4", QuantScheme::kSymmetric, false}, ExhaustiveCase{"int4", QuantScheme::kAffine, false},
        ExhaustiveCase{"int4", QuantScheme::kSymmetric, true}, ExhaustiveCase{"int4", QuantScheme::kAffine, true},
        ExhaustiveCase{"int2", QuantScheme::kSymmetric, false}, ExhaustiveCase{"int2", QuantScheme::kAffine, false},
        ExhaustiveCase{"int2", QuantScheme::kSymmetric, true}, ExhaustiveCase{"int2", QuantScheme::kAffine, true},
        ExhaustiveCase{"fp8_e4m3", QuantScheme::kSymmetric, false},
        ExhaustiveCase{"fp8_e4m3", QuantScheme::kSymmetric, true},
        ExhaustiveCase{"fp8_e5m2", QuantScheme::kSymmetric, false},
        ExhaustiveCase{"fp8_e5m2", QuantScheme::kSymmetric, true}),
    [](const auto& info) {
      return std::string(info.param.type) + (info.param.scheme == QuantScheme::kAffine ? "_affine" : "_symmetric") +
             (info.param.power_of_two ? "_power_of_two" : "");
    });

// On raw values, whole layers.
TEST(MseAgainstOthersTest, IsNeverWorse) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = test::ObserveValues(layer.values);
    for (const char* type : {"int2", "int4", "int8", "uint8", "fp8_e4m3", "fp8_e5m2"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        for (const bool power_of_two : {false, true}) {
          QuantSpec spec = test::MakeSpec(type, scheme);
          spec.power_of_two_scale = power_of_two;
          if (!ResolveSpec(spec).ok()) continue;
          const auto error = [&](const MethodSpec& method) {
            const auto result = Calibrate(statistics, method, spec);
            EXPECT_TRUE(result.ok()) << result.status();
            return RawError(layer.values, result->rules, result->params[0], 2);
          };
          const double least = error({CalibrationMethod::kMse});
          MethodSpec percentile{CalibrationMethod::kPercentile};
          const std::string what = layer.name + " " + type + (scheme == QuantScheme::kAffine ? " affine" : "") +
                                   (power_of_two ? " power of two" : "");
          double square_sum = 0;
          for (const double x : layer.values) square_sum += x * x;
          const double noise = 1e-13 * square_sum;
          EXPECT_LE(least, 1.005 * error({CalibrationMethod::kMinMax}) + noise) << what;
          EXPECT_LE(least, 1.005 * error(percentile) + noise) << what;
          percentile.percentile = 99.9;
          EXPECT_LE(least, 1.005 * error(percentile) + noise) << what;
          ++compared;
        }
      }
    }
  }
  EXPECT_GT(compared, 300);
}

// The search keeps to what each preset does with a scale, so that it never loses to the preset's own minmax.
TEST(MseAgainstOthersTest, IsNeverWorseUnderAnyPreset) {
  int compared = 0;
  test::Sample sample(11);
  for (const GoldenLayer& layer : GoldenLayers()) {
    const LayerStatistics statistics = test::ObserveValues(layer.values);
    for (const QuantPreset preset :
         {QuantPreset::kPytorch, QuantPreset::kTensorrt, QuantPreset::kMegengine, QuantPreset::kOnnxruntime,
          QuantPreset::kMxnet, QuantPreset::kAimet, QuantPreset::kMmrazor}) {
      for (const char* type : {"int1", "uint1", "int4", "int8", "uint8", "auto8", "int16", "int32", "fp8_e4m3"}) {
        for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
          for (const bool power_of_two : {false, true}) {
            QuantSpec spec = test::MakeSpec(type, scheme, preset);
            spec.power_of_two_scale = power_of_two;
            if (!ResolveSpec(spec).ok() || !sample.Take()) continue;
            const auto best = Calibrate(statistics, {CalibrationMethod::kMse}, spec);
            const auto minmax = Calibrate(statistics, {CalibrationMethod::kMinMax}, spec);
            ASSERT_TRUE(best.ok() && minmax.ok());
            EXPECT_LE(best->error->squared_error, minmax->error->squared_error + 1e-13 * minmax->error->square_sum)
                << layer.name << " preset " << static_cast<int>(preset) << " " << type << " "
                << static_cast<int>(scheme) << (power_of_two ? " power of two" : "");
            ++compared;
          }
        }
      }
    }
  }
  EXPECT_GT(compared, test::kSanitized ? 200 : 2000);
}

// Other norms, against a grid of scales (and all zero points) on a sample.
TEST(MseNormTest, IsWithinFivePerCentOfAGridOnFewValues) {
  for (const GoldenLayer& layer : GoldenLayers()) {
    if (layer.name == "syn_zero" || layer.name == "syn_const" || layer.values.size() < 10000) continue;
    std::vector<float> values;
    for (size_t i = 0; i < layer.values.size(); i += layer.values.size() / 3000 + 1) values.push_back(layer.values[i]);
    const LayerStatistics statistics = test::ObserveValues(values);
    for (const double norm : {1.0, 2.4, 4.0}) {
      for (const char* type : {"int4", "fp8_e4m3"}) {
        for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
          QuantSpec spec = test::MakeSpec(type, scheme);
          if (!ResolveSpec(spec).ok()) continue;
          MethodSpec method{CalibrationMethod::kMse};
          method.norm = norm;
          const auto found = Calibrate(statistics, method, spec);
          ASSERT_TRUE(found.ok()) << found.status();
          const QuantRules& rules = found->rules;
          const double low = -std::min(0.0f, *std::min_element(values.begin(), values.end()));
          const double high = std::max(0.0f, *std::max_element(values.begin(), values.end()));
          const double wide = rules.symmetric ? std::max(low, high) / static_cast<double>(rules.qmax)
                                              : (low + high) / static_cast<double>(rules.qmax - rules.qmin);
          double least = HUGE_VAL;
          for (int i = 1; i <= 50; ++i) {
            const float scale = static_cast<float>(wide * 1.2 * i / 50);
            for (int64_t zero_point = rules.symmetric ? 0 : rules.qmin;
                 zero_point <= (rules.symmetric ? 0 : rules.qmax); ++zero_point) {
              least = std::min(least, RawError(values, rules, {scale, zero_point}, norm));
            }
          }
          EXPECT_LE(RawError(values, rules, found->params[0], norm), 1.05 * least)
              << layer.name << " " << type << " norm " << norm;
        }
      }
    }
  }
}

// A norm that weighs far values more never clips more.
TEST(MseNormTest, GreaterNormsClipLess) {
  const auto layer =
      std::find_if(GoldenLayers().begin(), GoldenLayers().end(), [](const auto& l) { return l.name == "syn_normal"; });
  ASSERT_NE(layer, GoldenLayers().end());
  const LayerStatistics statistics = test::ObserveValues(layer->values);
  double last = 0;
  for (const double norm : {1.0, 1.5, 2.0, 2.4, 3.0, 8.0}) {
    MethodSpec method{CalibrationMethod::kMse};
    method.norm = norm;
    const auto found = Calibrate(statistics, method, {.type = *ParseQuantType("int4")});
    ASSERT_TRUE(found.ok());
    EXPECT_GT(found->clip[0].max, last) << norm;
    last = found->clip[0].max;
  }
}

TEST(MseNormTest, SurvivesTheGreatestValues) {
  MethodSpec method{CalibrationMethod::kMse};
  method.norm = 8;
  for (const char* type : {"int8", "fp8_e5m2"}) {
    const auto found =
        Calibrate(test::ObserveValues({FLT_MAX, -FLT_MAX, 3e38f, 1}), method, {.type = *ParseQuantType(type)});
    ASSERT_TRUE(found.ok());
    EXPECT_GT(found->error->sqnr_db(), type[0] == 'i' ? 40 : 20);
  }
}

}  // namespace
}  // namespace calib
