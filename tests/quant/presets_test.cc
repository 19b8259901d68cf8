// Each preset's codes, scale and zero point, against its framework's formulas worked out by hand and against what the
// reference systems made of the golden layers' ranges.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "quant/quant_spec.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using ::testing::HasSubstr;
using Preset = QuantPreset;

constexpr Preset kPresets[] = {Preset::kPytorch, Preset::kTensorrt, Preset::kMegengine, Preset::kOnnxruntime,
                               Preset::kMxnet,   Preset::kAimet,    Preset::kMmrazor};

QuantSpec Spec(Preset preset, absl::string_view type, QuantScheme scheme = QuantScheme::kSymmetric) {
  return test::MakeSpec(type, scheme, preset);
}

QuantRules Rules(const QuantSpec& spec) {
  const auto rules = ResolveSpec(spec);
  EXPECT_TRUE(rules.ok()) << rules.status();
  return rules.value_or(QuantRules{});
}

QuantRules Rules(Preset preset, absl::string_view type, QuantScheme scheme = QuantScheme::kSymmetric) {
  return Rules(Spec(preset, type, scheme));
}

std::string Refusal(const QuantSpec& spec) {
  const auto rules = ResolveSpec(spec);
  EXPECT_EQ(rules.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(rules.status().message());
}

CodeRange Codes(const QuantSpec& spec) {
  const QuantRules rules = Rules(spec);
  return {rules.qmin, rules.qmax};
}

TEST(PresetsTest, DefaultCodes) {
  const auto codes = [](Preset preset, const char* type) { return Codes(Spec(preset, type)); };
  for (const Preset preset : {Preset::kPytorch, Preset::kMegengine, Preset::kAimet, Preset::kMmrazor}) {
    EXPECT_EQ(codes(preset, "int8"), (CodeRange{-128, 127}));
    EXPECT_EQ(codes(preset, "int4"), (CodeRange{-8, 7}));
    EXPECT_EQ(codes(preset, "uint8"), (CodeRange{0, 255}));
    EXPECT_EQ(codes(preset, "int32"), (CodeRange{INT32_MIN, INT32_MAX}));
  }
  for (const Preset preset : {Preset::kTensorrt, Preset::kMxnet}) {
    EXPECT_EQ(codes(preset, "int8"), (CodeRange{-127, 127}));
    EXPECT_EQ(codes(preset, "uint8"), (CodeRange{0, 255}));
    EXPECT_EQ(codes(preset, "int32"), (CodeRange{-INT32_MAX, INT32_MAX}));
  }
  EXPECT_EQ(codes(Preset::kMegengine, "int1"), (CodeRange{0, 1}));
}

TEST(PresetsTest, OnnxruntimeCodes) {
  const auto codes = [](const char* type, QuantScheme scheme, bool reduce) {
    QuantSpec spec = Spec(Preset::kOnnxruntime, type, scheme);
    spec.reduce_range = reduce;
    return Codes(spec);
  };
  constexpr QuantScheme kSymmetric = QuantScheme::kSymmetric, kAffine = QuantScheme::kAffine;
  EXPECT_EQ(codes("int8", kAffine, false), (CodeRange{-128, 127}));
  EXPECT_EQ(codes("int8", kSymmetric, false), (CodeRange{-127, 127}));
  EXPECT_EQ(codes("uint8", kSymmetric, false), (CodeRange{0, 254}));
  EXPECT_EQ(codes("uint8", kAffine, false), (CodeRange{0, 255}));
  EXPECT_EQ(codes("uint16", kSymmetric, false), (CodeRange{0, 65534}));
  EXPECT_EQ(codes("int16", kSymmetric, false), (CodeRange{-32767, 32767}));
  EXPECT_EQ(codes("int4", kSymmetric, false), (CodeRange{-8, 7}));
  EXPECT_EQ(codes("uint4", kSymmetric, false), (CodeRange{0, 15}));
  for (const QuantScheme scheme : {kSymmetric, kAffine}) {
    EXPECT_EQ(codes("int8", scheme, true), (CodeRange{-64, 64}));
    EXPECT_EQ(codes("uint8", scheme, true), (CodeRange{0, 127}));
    EXPECT_EQ(codes("int16", scheme, true), (CodeRange{-16384, 16384}));
    EXPECT_EQ(codes("uint16", scheme, true), (CodeRange{0, 32767}));
    EXPECT_EQ(codes("int4", scheme, true), (CodeRange{-4, 3}));
    EXPECT_EQ(codes("uint4", scheme, true), (CodeRange{0, 7}));
  }
}

TEST(PresetsTest, ReducedAndGivenCodes) {
  QuantSpec spec = Spec(Preset::kPytorch, "int8");
  spec.reduce_range = true;
  EXPECT_EQ(Codes(spec), (CodeRange{-64, 63}));
  EXPECT_EQ(Rules(spec).symmetric_divisor(), 63.5);
  spec.codes = CodeRange{-127, 127};  // halved towards minus infinity
  EXPECT_EQ(Codes(spec), (CodeRange{-64, 63}));
  spec.codes.reset();
  spec.narrow_range = true;
  EXPECT_EQ(Codes(spec), (CodeRange{-63, 63}));
  spec = Spec(Preset::kPytorch, "uint8");
  spec.codes = CodeRange{0, 200};
  EXPECT_EQ(Rules(spec).symmetric_zero_point, 100);
  spec.codes = CodeRange{0, 127};
  EXPECT_EQ(Rules(spec).symmetric_zero_point, 63);
  spec = Spec(Preset::kTensorrt, "int8");
  spec.codes = CodeRange{-128, 100};
  EXPECT_EQ(Codes(spec), (CodeRange{-128, 100}));
  EXPECT_EQ(Rules(spec).symmetric_divisor(), 100);
}

TEST(PresetsTest, SymmetricZeroPoints) {
  const auto zero_point = [](Preset preset, const char* type, bool reduce = false) {
    QuantSpec spec = Spec(preset, type);
    spec.reduce_range = reduce;
    return Rules(spec).symmetric_zero_point;
  };
  EXPECT_EQ(zero_point(Preset::kPytorch, "uint8"), 128);
  EXPECT_EQ(zero_point(Preset::kMmrazor, "uint8"), 127);
  EXPECT_EQ(zero_point(Preset::kMegengine, "uint8"), 0);
  EXPECT_EQ(zero_point(Preset::kTensorrt, "uint8"), 0);
  EXPECT_EQ(zero_point(Preset::kMxnet, "uint8"), 0);
  EXPECT_EQ(zero_point(Preset::kAimet, "uint8"), 128);
  EXPECT_EQ(zero_point(Preset::kAimet, "int8"), 0);
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "uint8"), 127);
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "uint8", true), 64);  // 63.5 to even
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "uint4"), 8);         // 7.5 to even
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "uint2"), 2);         // 1.5 to even
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "int4"), 0);          // -0.5 to even
  EXPECT_EQ(zero_point(Preset::kOnnxruntime, "uint1"), 0);         // 0.5 to even
}

TEST(PresetsTest, MegengineRoundsAwayAndFloorsTheScale) {
  const QuantRules symmetric = Rules(Preset::kMegengine, "int8");
  EXPECT_EQ(ParamsForRange(symmetric, {-1, 2}), (QParams{2.0f / 127.5f, 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {0, 0}), (QParams{1e-5f, 0}));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kMegengine, "uint8"), {-1, 2}), (QParams{2.0f / 127.5f, 0}));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kMegengine, "int1"), {-1, 2}), (QParams{4, 0}));
  const QuantRules affine = Rules(Preset::kMegengine, "uint8", QuantScheme::kAffine);
  EXPECT_EQ(ParamsForRange(affine, {-0.5, 254.5}), (QParams{1, 1}));  // torch: 0
  EXPECT_EQ(ParamsForRange(affine, {-2.5, 252.5}), (QParams{1, 3}));  // torch: 2
  EXPECT_EQ(ParamsForRange(Rules(Preset::kMegengine, "int8", QuantScheme::kAffine), {-4, -2}),
            (QParams{4.0f / 255, 127}));
}

TEST(PresetsTest, MegengineZeroPointIsNotClamped) {
  // float32 has no 2^32 - 1: the zero point is one above the greatest code.
  const QParams params = ParamsForRange(Rules(Preset::kMegengine, "int32", QuantScheme::kAffine), {-0x1p22, 0});
  EXPECT_EQ(params.zero_point, int64_t{INT32_MAX} + 1);
  EXPECT_EQ(ParamsForRange(Rules(Preset::kPytorch, "int32", QuantScheme::kAffine), {-0x1p22, 0}).zero_point, INT32_MAX);
}

TEST(PresetsTest, OnnxruntimeDividesInDouble) {
  const QuantRules symmetric = Rules(Preset::kOnnxruntime, "int8");
  EXPECT_EQ(ParamsForRange(symmetric, {-1, 0.5}), (QParams{static_cast<float>(2.0 / 254), 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {0, 0}), (QParams{1, 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {0, 127 * 0x1p-127}), (QParams{1, 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {0, 127 * 0x1p-126}), (QParams{0x1p-126f, 0}));
  const QuantRules affine = Rules(Preset::kOnnxruntime, "int8", QuantScheme::kAffine);
  EXPECT_EQ(ParamsForRange(affine, {0, 0}), (QParams{1, 0}));
  EXPECT_EQ(ParamsForRange(affine, {0, 5}), (QParams{static_cast<float>(5.0 / 255), -128}));
  EXPECT_EQ(ParamsForRange(affine, {-1.5, 253.5}), (QParams{1, -126}));
  // qmin takes part in the rounding: -127 + 0.5 goes to -126, where PyTorch's -127 - round(-0.5) is -127.
  QuantSpec narrow = Spec(Preset::kOnnxruntime, "int8", QuantScheme::kAffine);
  narrow.narrow_range = true;
  EXPECT_EQ(ParamsForRange(Rules(narrow), {-0.5, 253.5}), (QParams{1, -126}));
  narrow.preset = Preset::kPytorch;
  EXPECT_EQ(ParamsForRange(Rules(narrow), {-0.5, 253.5}), (QParams{1, -127}));
}

TEST(PresetsTest, MxnetIsTheInverseOfItsReportedScale) {
  const QuantRules int8 = Rules(Preset::kMxnet, "int8");
  EXPECT_EQ(ParamsForRange(int8, {-3, 2}), (QParams{3.0f / 127, 0}));
  EXPECT_EQ(ParamsForRange(int8, {0, 0}), (QParams{1, 0}));
  EXPECT_EQ(ParamsForRange(int8, {0, 1e-44}), (QParams{FLT_MIN, 0}));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kMxnet, "uint8"), {0, 3}), (QParams{3.0f / 255, 0}));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kMxnet, "int32"), {-3, 2}), (QParams{3.0f / 2147483647.0f, 0}));
}

TEST(PresetsTest, AimetRangeIsNeverNarrow) {
  const QuantRules symmetric = Rules(Preset::kAimet, "int8");
  EXPECT_EQ(ParamsForRange(symmetric, {-3, 2}), (QParams{static_cast<float>(3.0 / 127), 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {0, 0}), (QParams{static_cast<float>(0.01 / 127), 0}));
  EXPECT_EQ(ParamsForRange(symmetric, {-0.004, 0}).scale, static_cast<float>(0.006 / 127));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kAimet, "uint8"), {-3, 2}), (QParams{static_cast<float>(3.0 / 127), 128}));
  const QuantRules affine = Rules(Preset::kAimet, "uint8", QuantScheme::kAffine);
  EXPECT_EQ(ParamsForRange(affine, {0, 0}), (QParams{static_cast<float>(0.01 / 255), 0}));
  EXPECT_EQ(ParamsForRange(affine, {-2.5, 252.5}), (QParams{1, 3}));
  EXPECT_EQ(ParamsForRange(affine, {-5, -1}), (QParams{static_cast<float>(5.0 / 255), 255}));
  EXPECT_EQ(ParamsForRange(Rules(Preset::kAimet, "int8", QuantScheme::kAffine), {-2.5, 252.5}), (QParams{1, -125}));
  QuantSpec strict = Spec(Preset::kAimet, "int8");
  strict.narrow_range = true;
  EXPECT_EQ(Codes(strict), (CodeRange{-127, 127}));
  EXPECT_EQ(Rules(strict).symmetric_divisor(), 127);
  strict.type.is_signed = false;
  EXPECT_EQ(Codes(strict), (CodeRange{0, 254}));
  EXPECT_EQ(Rules(strict).symmetric_zero_point, 127);
}

TEST(PresetsTest, Refusals) {
  for (const Preset preset : {Preset::kTensorrt, Preset::kMxnet}) {
    EXPECT_THAT(Refusal(Spec(preset, "int8", QuantScheme::kAffine)), HasSubstr("has no affine scheme"));
  }
  for (const Preset preset : {Preset::kTensorrt, Preset::kMxnet, Preset::kMegengine}) {
    QuantSpec narrow = Spec(preset, "uint8");
    narrow.narrow_range = true;
    EXPECT_THAT(Refusal(narrow), HasSubstr("puts zero at code 0 of uint8, which this range leaves out"));
  }
  QuantSpec reduced = Spec(Preset::kPytorch, "uint8");
  reduced.reduce_range = true;
  EXPECT_THAT(Refusal(reduced), HasSubstr("no reduced range of uint8"));
  reduced.scheme = QuantScheme::kAffine;
  EXPECT_EQ(Codes(reduced), (CodeRange{0, 127}));
  QuantSpec given = Spec(Preset::kPytorch, "int4");
  given.codes = CodeRange{-9, 7};
  EXPECT_THAT(Refusal(given), HasSubstr("codes -9 to 7 are not all in int4, which has -8 to 7"));
  given.codes = CodeRange{1, 7};
  EXPECT_THAT(Refusal(given), HasSubstr("do not include 0"));
  given.codes = CodeRange{0, 0};
  EXPECT_THAT(Refusal(given), HasSubstr("do not include 0 and another"));
  given.codes = CodeRange{-7, 7};
  given.narrow_range = true;
  EXPECT_THAT(Refusal(given), HasSubstr("leave one of them out"));
  QuantSpec one_code = Spec(Preset::kPytorch, "int1");
  one_code.reduce_range = true;
  EXPECT_THAT(Refusal(one_code), HasSubstr("a single code"));
  EXPECT_THAT(Refusal(Spec(Preset::kAimet, "int1")), HasSubstr("no code of 0 to 1 is above zero"));
  for (const Preset preset : kPresets) {
    EXPECT_THAT(Refusal(Spec(preset, "fp8_e4m3", QuantScheme::kAffine)), HasSubstr("fp8_e4m3 has no zero point"));
    QuantSpec reduced_fp8 = Spec(preset, "fp8_e5m2");
    reduced_fp8.reduce_range = true;
    EXPECT_THAT(Refusal(reduced_fp8), HasSubstr("fp8_e5m2 is used whole"));
  }
}

TEST(PresetsTest, Float8DividesByItsGreatestNumber) {
  for (const Preset preset : kPresets) {
    EXPECT_EQ(ParamsForRange(Rules(preset, "fp8_e4m3"), {-3, 2}), (QParams{3.0f / 448, 0}));
    EXPECT_EQ(ParamsForRange(Rules(preset, "fp8_e5m2"), {-3, 2}), (QParams{3.0f / 57344, 0}));
  }
}

TEST(PresetsTest, AutoFollowsTheLeastValue) {
  QuantSpec spec = Spec(Preset::kMxnet, "auto8");
  EXPECT_EQ(ResolveAuto(spec, 0).type.Name(), "uint8");
  EXPECT_EQ(ResolveAuto(spec, -0.0).type.Name(), "uint8");
  EXPECT_EQ(ResolveAuto(spec, -1e-40).type.Name(), "int8");
  EXPECT_EQ(ResolveAuto(Spec(Preset::kMxnet, "int4"), 1).type.Name(), "int4");
  EXPECT_EQ(Rules(spec), Rules(Preset::kMxnet, "int8"));
  spec.narrow_range = true;  // int8 would do
  EXPECT_THAT(Refusal(spec), HasSubstr("uint8"));
  spec.narrow_range.reset();
  spec.codes = CodeRange{-5, 5};
  EXPECT_THAT(Refusal(spec), HasSubstr("not all in uint8"));
}

// Of all presets, types and schemes that there are, at random ranges.
TEST(PresetsTest, PowersOfTwoHoldTheRangeAndFollowTheFormula) {
  std::mt19937_64 rng(11);
  std::lognormal_distribution<double> width(0, 8);
  int compared = 0;
  for (const Preset preset : kPresets) {
    for (const char* type : {"int2", "uint4", "int8", "uint8", "int16", "uint24", "fp8_e4m3", "fp8_e5m2"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        QuantSpec spec = Spec(preset, type, scheme);
        if (!ResolveSpec(spec).ok()) continue;
        const QuantRules exact = Rules(spec);
        spec.power_of_two_scale = true;
        const QuantRules rules = Rules(spec);
        for (int i = 0; i < 200; ++i) {
          const ClipRange range = {i % 3 == 0 ? 0 : -width(rng), i % 3 == 1 ? 0 : width(rng)};
          const QParams params = ParamsForRange(rules, range), unrounded = ParamsForRange(exact, range);
          int exponent = 0;
          ASSERT_EQ(std::frexp(params.scale, &exponent), 0.5f);
          EXPECT_GE(params.scale, unrounded.scale * (1 - 1e-7f));
          EXPECT_LT(params.scale, unrounded.scale * (2 + 1e-6f));
          // What the formula makes of a power of two it leaves alone.
          const ClipRange whole = RangeForParams(rules, params.scale, params.zero_point);
          EXPECT_EQ(ParamsForRange(rules, whole).scale, params.scale) << type;
          if (scheme == QuantScheme::kAffine && spec.type.bits <= 16) {  // float32 tells their steps apart
            const double lowest = params.scale * static_cast<double>(rules.qmin - params.zero_point);
            EXPECT_LE(lowest, range.min + params.scale * 0.5000001) << type;
          }
          ++compared;
        }
      }
    }
  }
  EXPECT_GT(compared, 10000);
  QuantSpec spec = Spec(Preset::kPytorch, "int8");
  spec.power_of_two_scale = true;
  EXPECT_EQ(ParamsForRange(Rules(spec), {-1, 127.5}).scale, 1);
  EXPECT_EQ(ParamsForRange(Rules(spec), {-1, 127.51}).scale, 2);
  EXPECT_EQ(ParamsForRange(Rules(spec), {0, 0}).scale, FLT_EPSILON);
  EXPECT_EQ(ParamsForRange(Rules(Spec(Preset::kMegengine, "int1")), {0, FLT_MAX}).scale, FLT_MAX);
  spec = Spec(Preset::kMegengine, "int1");
  spec.power_of_two_scale = true;
  EXPECT_EQ(ParamsForRange(Rules(spec), {0, FLT_MAX}).scale, 0x1p127f);
}

// What the reference systems made of the ranges that they observed.
TEST(PresetsTest, GoldenMegengine) {
  int compared = 0;
  for (const test::GoldenLayer& layer : test::GoldenLayers()) {
    for (const auto& [key, expected] : layer.expected.at("megengine").items()) {
      if (key.find("Histogram") != std::string::npos) continue;  // its range is searched for
      const std::string type = key.substr(key.find('/') + 2, key.rfind('/') - key.find('/') - 2);
      const bool affine = key.ends_with("/asymmetric");
      const QParams params =
          ParamsForRange(Rules(Preset::kMegengine, type, affine ? QuantScheme::kAffine : QuantScheme::kSymmetric),
                         {expected.at("min").get<double>(), expected.at("max").get<double>()});
      const double scale = expected.at("scale").get<double>();
      EXPECT_NEAR(params.scale, scale, 1e-6 * scale) << layer.name << " " << key;
      const auto& zero_point = expected.at("zero_point");
      EXPECT_EQ(static_cast<double>(params.zero_point), zero_point.is_null() ? 0 : zero_point.get<double>())
          << layer.name << " " << key;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 14 * static_cast<int>(test::GoldenLayers().size()));
}

TEST(PresetsTest, GoldenTorchMovingAverages) {
  int compared = 0;
  for (const test::GoldenLayer& layer : test::GoldenLayers()) {
    for (const char* type : {"int8", "uint8"}) {
      for (const bool affine : {false, true}) {
        const std::string key =
            std::string("MovingAverageMinMaxObserver/q") + type + (affine ? "/affine" : "/symmetric");
        const auto& expected = layer.expected.at("torch").at(key);
        const QParams params =
            ParamsForRange(Rules(Preset::kPytorch, type, affine ? QuantScheme::kAffine : QuantScheme::kSymmetric),
                           {expected.at("min").get<double>(), expected.at("max").get<double>()});
        EXPECT_EQ(params.scale, expected.at("scale").at(0).get<float>()) << layer.name << " " << key;
        EXPECT_EQ(params.zero_point, expected.at("zero_point").at(0).get<int64_t>()) << layer.name << " " << key;
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 4 * static_cast<int>(test::GoldenLayers().size()));
}

}  // namespace
}  // namespace calib
