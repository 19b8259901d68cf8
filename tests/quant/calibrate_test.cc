#include "quant/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "tests/quant/methods_test_util.h"
#include "tests/support/sample.h"

namespace calib {
namespace {

using test::MakeSpec;
using test::ObserveLayer;
using test::ObserveValues;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const CalibrationMethod kMethods[] = {CalibrationMethod::kMinMax,   CalibrationMethod::kPercentile,
                                      CalibrationMethod::kCoverage, CalibrationMethod::kMse,
                                      CalibrationMethod::kEntropy,  CalibrationMethod::kL2Greedy,
                                      CalibrationMethod::kLsq,      CalibrationMethod::kLsqPlus};
// Those that answer affine specs too.
const auto kAffineMethods = absl::MakeConstSpan(kMethods).first(6);

LayerQParams MustCalibrate(const LayerStatistics& statistics, CalibrationMethod method, const QuantSpec& spec) {
  auto result = Calibrate(statistics, {method}, spec);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : LayerQParams{};
}

// Every method, scheme, preset and some types give finite, positive scales, legal zero points, ranges that include
// zero, and an error that is a number.
void ExpectSane(const std::vector<float>& values, const std::string& name) {
  const LayerStatistics statistics = ObserveValues(values);
  test::Sample sample(11);
  for (const CalibrationMethod method : kMethods) {
    for (const QuantPreset preset :
         {QuantPreset::kPytorch, QuantPreset::kTensorrt, QuantPreset::kMegengine, QuantPreset::kOnnxruntime,
          QuantPreset::kMxnet, QuantPreset::kAimet, QuantPreset::kMmrazor}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        if (!ResolveSpec(MakeSpec("int8", scheme, preset)).ok()) continue;
        if (CheckCalibrate(statistics, {method}, MakeSpec("int8", scheme, preset)) == CalibrateError::kSpecInvalid)
          continue;
        for (const char* type : {"int2", "int8", "uint8", "int16", "uint16"}) {
          if (!sample.Take()) continue;
          const std::string what = name + " " + std::string(MethodName(method)) + " " + type;
          const LayerQParams result = MustCalibrate(statistics, method, MakeSpec(type, scheme, preset));
          ASSERT_THAT(result.params, SizeIs(1)) << what;
          ASSERT_THAT(result.clip, SizeIs(1)) << what;
          EXPECT_TRUE(std::isfinite(result.params[0].scale)) << what;
          EXPECT_GT(result.params[0].scale, 0) << what;
          EXPECT_GE(result.params[0].zero_point, result.rules.qmin) << what;
          EXPECT_LE(result.params[0].zero_point, result.rules.qmax) << what;
          EXPECT_LE(result.clip[0].min, 0) << what;
          EXPECT_FALSE(result.clip[0].min == 0 && std::signbit(result.clip[0].min)) << what;
          EXPECT_GE(result.clip[0].max, 0) << what;
          ASSERT_TRUE(result.error.has_value()) << what;
          EXPECT_TRUE(std::isfinite(result.error->squared_error)) << what;
          EXPECT_GE(result.error->squared_error, 0) << what;
          EXPECT_FALSE(std::isnan(result.error->sqnr_db())) << what;
          EXPECT_GE(result.error->clipped(), 0) << what;
          EXPECT_LE(result.error->clipped(), 1) << what;
        }
      }
    }
  }
}

TEST(CalibrateTest, ExtremeTensorsGiveDefinedAnswers) {
  ExpectSane({0, 0, 0, -0.0f}, "all zero");
  ExpectSane({3.3f, 3.3f, 3.3f}, "constant");
  ExpectSane({-1e-3f}, "one value");
  ExpectSane({-1, -2.5f, -3.3f, -100}, "only negative");
  ExpectSane({FLT_TRUE_MIN, -FLT_TRUE_MIN, 1e-40f, 3e-39f}, "subnormal");
  ExpectSane({FLT_TRUE_MIN}, "least subnormal");
  ExpectSane({FLT_MAX, -FLT_MAX}, "greatest");
  ExpectSane({FLT_MAX, 1}, "greatest positive");
  ExpectSane({-FLT_MAX, 0.5f, 3e38f}, "greatest negative");
  ExpectSane({1e-38f, 2e-38f, -3.3e-38f}, "1e-38");
  ExpectSane({1e-38f, 1e38f, 1}, "all magnitudes");
  ExpectSane({1, std::nanf(""), 2, INFINITY, -INFINITY}, "some not finite");
}

TEST(CalibrateTest, AllZero) {
  const LayerStatistics statistics = ObserveValues({0, 0, -0.0f});
  for (const CalibrationMethod method : kAffineMethods) {
    LayerQParams result = MustCalibrate(statistics, method, MakeSpec("uint8", QuantScheme::kAffine));
    EXPECT_EQ(result.params[0], (QParams{FLT_EPSILON, 0})) << MethodName(method);
    EXPECT_EQ(result.error->squared_error, 0);
    EXPECT_EQ(result.error->sqnr_db(), INFINITY);
    EXPECT_EQ(result.error->clipped(), 0);
    result = MustCalibrate(statistics, method, MakeSpec("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt));
    EXPECT_EQ(result.params[0], (QParams{1, 0})) << MethodName(method);
  }
}

TEST(CalibrateTest, ConstantIsMetByMse) {
  for (const float value : {3.3f, -7.7e-12f, 1e30f, FLT_MAX}) {
    const LayerStatistics statistics = ObserveValues({value, value, value});
    for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
      const LayerQParams result = MustCalibrate(statistics, CalibrationMethod::kMse, MakeSpec("int8", scheme));
      EXPECT_GT(result.error->sqnr_db(), 120) << value;
      EXPECT_EQ(result.error->clipped(), 0) << value;
    }
  }
}

TEST(CalibrateTest, OnlyNegativeUsesAllCodesWhenAffine) {
  const LayerQParams result =
      MustCalibrate(ObserveValues({-1, -2, -4}), CalibrationMethod::kMinMax, MakeSpec("uint8", QuantScheme::kAffine));
  EXPECT_EQ(result.clip[0], (ClipRange{-4, 0}));
  EXPECT_EQ(result.params[0], (QParams{4.0f / 255, 255}));
}

TEST(CalibrateTest, NegativeValuesSaturateInUnsignedTensorrt) {
  const LayerQParams result = MustCalibrate(ObserveValues({-1, -2, 4, 3}), CalibrationMethod::kMinMax,
                                            MakeSpec("uint8", QuantScheme::kSymmetric, QuantPreset::kTensorrt));
  EXPECT_EQ(result.params[0], (QParams{4.0f / 255, 0}));
  EXPECT_EQ(result.error->clipped(), 0.5);
}

TEST(CalibrateTest, MinMaxWithoutAHistogramHasNoError) {
  ObserverConfig config;
  config.kind = ObserverKind::kMinMax;
  const LayerStatistics statistics = ObserveLayer({-1, 2}, {2}, config);
  const LayerQParams result =
      MustCalibrate(statistics, CalibrationMethod::kMinMax, MakeSpec("int8", QuantScheme::kAffine));
  EXPECT_FALSE(result.error.has_value());
  EXPECT_EQ(result.params[0].scale, 3.0f / 255);
  for (const CalibrationMethod method : kMethods) {
    if (method == CalibrationMethod::kMinMax) continue;
    EXPECT_EQ(CheckCalibrate(statistics, {method}, {}), CalibrateError::kNeedsHistogram);
    const auto refused = Calibrate(statistics, {method}, {});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("needs a histogram"));
  }
}

TEST(CalibrateTest, NoFiniteValueIsAnError) {
  for (const std::vector<float>& values : {std::vector<float>{}, {NAN, NAN}, {INFINITY, -INFINITY, NAN}}) {
    const LayerStatistics statistics = ObserveValues(values);
    for (const CalibrationMethod method : kMethods) {
      EXPECT_EQ(CheckCalibrate(statistics, {method}, {}), CalibrateError::kLayerEmpty);
      EXPECT_EQ(Calibrate(statistics, {method}, {}).status().code(), absl::StatusCode::kFailedPrecondition);
    }
  }
  EXPECT_THAT(std::string(Calibrate(ObserveValues({NAN, INFINITY}), {}, {}).status().message()),
              HasSubstr("1 NaN, 1 infinities"));
  EXPECT_EQ(CheckCalibrate(LayerStatistics(ObserverConfig{}), {}, {}), CalibrateError::kLayerEmpty);
}

TEST(CalibrateTest, BadRequestsAreToldApart) {
  const LayerStatistics statistics = ObserveValues({1, 2});
  MethodSpec method{CalibrationMethod::kPercentile};
  method.percentile = 101;
  EXPECT_EQ(CheckCalibrate(statistics, method, {}), CalibrateError::kMethodInvalid);
  EXPECT_EQ(Calibrate(statistics, method, {}).status().code(), absl::StatusCode::kInvalidArgument);
  const QuantSpec affine = [] {
    QuantSpec spec;
    spec.preset = QuantPreset::kTensorrt;
    spec.scheme = QuantScheme::kAffine;
    return spec;
  }();
  EXPECT_EQ(CheckCalibrate(statistics, {}, affine), CalibrateError::kSpecInvalid);
  EXPECT_EQ(Calibrate(statistics, {}, affine).status().code(), absl::StatusCode::kInvalidArgument);
  QuantSpec per_channel;
  per_channel.granularity = QuantGranularity::kPerChannel;
  EXPECT_EQ(CheckCalibrate(statistics, {}, per_channel), CalibrateError::kNotPerChannel);
  EXPECT_EQ(Calibrate(statistics, {}, per_channel).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CheckCalibrate(statistics, {}, {}), CalibrateError::kNone);
}

TEST(CalibrateTest, ChannelsAreCalibratedApartOrMerged) {
  std::mt19937_64 rng(5);
  std::normal_distribution<float> gauss;
  constexpr uint64_t kRows = 2000, kChannels = 3;
  std::vector<float> tensor(kRows * kChannels);
  std::vector<std::vector<float>> columns(kChannels);
  for (size_t i = 0; i < tensor.size(); ++i) {
    tensor[i] = gauss(rng) * std::pow(10.0f, static_cast<float>(i % kChannels));
    columns[i % kChannels].push_back(tensor[i]);
  }
  ObserverConfig config;
  config.channel_axis = 1;
  const LayerStatistics statistics = ObserveLayer(tensor, {kRows, kChannels}, config);
  for (const CalibrationMethod method : kAffineMethods) {
    QuantSpec spec = MakeSpec("int8", QuantScheme::kAffine);
    // Per tensor, the channels together give what the tensor gives.
    const LayerQParams merged = MustCalibrate(statistics, method, spec);
    const LayerQParams whole = MustCalibrate(ObserveValues(tensor), method, spec);
    EXPECT_EQ(merged.params, whole.params);
    EXPECT_EQ(merged.clip, whole.clip);
    EXPECT_EQ(merged.range, whole.range);
    EXPECT_EQ(merged.error->squared_error, whole.error->squared_error);
    // Per channel, each gives what it gives alone, and the errors add up.
    spec.granularity = QuantGranularity::kPerChannel;
    const LayerQParams apart = MustCalibrate(statistics, method, spec);
    ASSERT_THAT(apart.params, SizeIs(kChannels));
    ExpectedError sum;
    for (size_t channel = 0; channel < kChannels; ++channel) {
      spec.granularity = QuantGranularity::kPerTensor;
      const LayerQParams alone = MustCalibrate(ObserveValues(columns[channel]), method, spec);
      EXPECT_EQ(apart.params[channel], alone.params[0]);
      EXPECT_EQ(apart.clip[channel], alone.clip[0]);
      sum.Add(*alone.error);
    }
    EXPECT_EQ(apart.range, whole.range);
    EXPECT_DOUBLE_EQ(apart.error->squared_error, sum.squared_error);
    EXPECT_EQ(apart.error->count, static_cast<double>(tensor.size()));
    // Entropy clips a channel of few values harder than squared error would.
    if (method == CalibrationMethod::kEntropy) continue;
    EXPECT_LT(apart.error->squared_error, whole.error->squared_error);
  }
}

TEST(CalibrateTest, EndsBetweenChannelsWhenItIsAbandoned) {
  ObserverConfig config;
  config.channel_axis = 0;
  const LayerStatistics statistics = ObserveLayer({1, 2, 3, 4}, {4, 1}, config);
  const QuantSpec spec{.granularity = QuantGranularity::kPerChannel};
  int asked = 0;
  const auto after_two = [&asked] { return ++asked > 2; };
  EXPECT_TRUE(absl::IsCancelled(Calibrate(statistics, {}, spec, after_two).status()));
  EXPECT_EQ(asked, 3);
  asked = 0;
  EXPECT_TRUE(Calibrate(statistics, {}, spec, [&asked] { return ++asked < 0; }).ok());
  EXPECT_EQ(asked, 4);
}

TEST(CalibrateTest, ChannelWithoutValuesGetsTheEmptyRange) {
  ObserverConfig config;
  config.channel_axis = 1;
  const LayerStatistics statistics = ObserveLayer({1, NAN, 2, INFINITY}, {2, 2}, config);
  QuantSpec spec = MakeSpec("uint8", QuantScheme::kAffine);
  spec.granularity = QuantGranularity::kPerChannel;
  for (const CalibrationMethod method : kAffineMethods) {
    const LayerQParams result = MustCalibrate(statistics, method, spec);
    ASSERT_THAT(result.params, SizeIs(2));
    EXPECT_EQ(result.params[1], (QParams{FLT_EPSILON, 0}));
    EXPECT_EQ(result.clip[1], ClipRange{});
    EXPECT_EQ(result.range.count, 2u);
    EXPECT_EQ(result.range.nan, 1u);
    EXPECT_EQ(result.error->count, 2);
  }
}

TEST(CalibrateTest, AutoTypeFollowsTheLayer) {
  const auto rules = [](const std::vector<float>& values, QuantPreset preset) {
    return MustCalibrate(ObserveValues(values), CalibrationMethod::kMinMax,
                         MakeSpec("auto8", QuantScheme::kSymmetric, preset));
  };
  const LayerQParams without = rules({0, 3}, QuantPreset::kMxnet), with = rules({-1e-40f, 3}, QuantPreset::kMxnet);
  EXPECT_EQ(without.rules.qmin, 0);
  EXPECT_EQ(without.params[0], (QParams{3.0f / 255, 0}));
  EXPECT_EQ(with.rules.qmin, -127);
  EXPECT_EQ(with.params[0], (QParams{3.0f / 127, 0}));
  // One type for the layer, though one of its channels has no negative value.
  ObserverConfig config;
  config.channel_axis = 1;
  QuantSpec spec = MakeSpec("auto8", QuantScheme::kSymmetric, QuantPreset::kMxnet);
  spec.granularity = QuantGranularity::kPerChannel;
  const LayerQParams channels =
      MustCalibrate(ObserveLayer({1, -2, 3, 4}, {2, 2}, config), CalibrationMethod::kMinMax, spec);
  EXPECT_EQ(channels.params[0], (QParams{3.0f / 127, 0}));
  EXPECT_EQ(channels.params[1], (QParams{4.0f / 127, 0}));
}

TEST(CalibrateTest, OneSidedPercentileAndNormReachTheirMethods) {
  std::mt19937_64 rng(8);
  std::normal_distribution<float> gauss;
  std::vector<float> values(10000);
  for (float& x : values) x = gauss(rng);
  const LayerStatistics statistics = ObserveValues(values);
  MethodSpec percentile{CalibrationMethod::kPercentile};
  percentile.percentile = 99;
  percentile.one_sided = true;
  const auto one_sided = Calibrate(statistics, percentile, MakeSpec("int8", QuantScheme::kAffine));
  ASSERT_TRUE(one_sided.ok());
  EXPECT_EQ(one_sided->clip[0].min, one_sided->range.min);
  EXPECT_NEAR(one_sided->clip[0].max, 2.33, 0.1);
  MethodSpec mse{CalibrationMethod::kMse};
  const auto squares = Calibrate(statistics, mse, MakeSpec("int4", QuantScheme::kSymmetric));
  mse.norm = 1;
  const auto magnitudes = Calibrate(statistics, mse, MakeSpec("int4", QuantScheme::kSymmetric));
  ASSERT_TRUE(squares.ok() && magnitudes.ok());
  EXPECT_LT(magnitudes->clip[0].max, squares->clip[0].max);
  EXPECT_GT(magnitudes->error->squared_error, squares->error->squared_error);  // ExpectedError is of squares always
}

TEST(CalibrateTest, FloorYieldsToTheSearch) {
  std::vector<float> values;
  for (int i = -1000; i <= 1000; ++i) values.push_back(static_cast<float>(i) * 1.1e-9f);
  const LayerStatistics statistics = ObserveValues(values);
  const QuantSpec spec = MakeSpec("int8", QuantScheme::kSymmetric);
  EXPECT_EQ(MustCalibrate(statistics, CalibrationMethod::kMinMax, spec).params[0].scale, FLT_EPSILON);
  const LayerQParams searched = MustCalibrate(statistics, CalibrationMethod::kMse, spec);
  EXPECT_LT(searched.params[0].scale, 1e-8f);
  EXPECT_GT(searched.error->sqnr_db(), 40);
}

}  // namespace
}  // namespace calib
