#include "quant/quant_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using ::testing::HasSubstr;

QuantRules ResolvedRules(absl::string_view type, QuantScheme scheme, QuantPreset preset = QuantPreset::kPytorch,
                         std::optional<bool> narrow = std::nullopt) {
  QuantSpec spec = test::MakeSpec(type, scheme, preset);
  spec.narrow_range = narrow;
  return *ResolveSpec(spec);
}

TEST(QuantTypeTest, NamesReadBack) {
  std::vector<QuantType> types = {
      {CodeKind::kFloat8E4M3, 8, true}, {CodeKind::kFloat8E5M2, 8, true}, {CodeKind::kAuto8, 8, true}};
  for (const bool is_signed : {false, true}) {
    for (int bits = 1; bits <= 32; ++bits) types.push_back({CodeKind::kInteger, bits, is_signed});
  }
  for (const QuantType& type : types) {
    const auto parsed = ParseQuantType(type.Name());
    ASSERT_TRUE(parsed.ok()) << type.Name();
    EXPECT_EQ(*parsed, type);
  }
}

TEST(QuantTypeTest, Codes) {
  const auto codes = [](const char* name) {
    const QuantType type = *ParseQuantType(name);
    return CodeRange{type.qmin(), type.qmax()};
  };
  EXPECT_EQ(codes("int1"), (CodeRange{0, 1}));
  EXPECT_EQ(codes("uint1"), (CodeRange{0, 1}));
  EXPECT_EQ(codes("int2"), (CodeRange{-2, 1}));
  EXPECT_EQ(codes("int32"), (CodeRange{INT32_MIN, INT32_MAX}));
  EXPECT_EQ(codes("uint32"), (CodeRange{0, UINT32_MAX}));
  EXPECT_EQ(codes("fp8_e4m3"), (CodeRange{-448, 448}));
  EXPECT_EQ(codes("fp8_e5m2"), (CodeRange{-57344, 57344}));
}

// The formats spelled out bit by bit.
TEST(QuantTypeTest, Float8Numbers) {
  for (const auto& [kind, mantissa_bits, bias, last] :
       {std::tuple(CodeKind::kFloat8E4M3, 3, 7, 0x7e), {CodeKind::kFloat8E5M2, 2, 15, 0x7b}}) {
    const absl::Span<const double> numbers = Float8Numbers(kind);
    ASSERT_EQ(numbers.size(), static_cast<size_t>(last) + 1);
    for (int code = 0; code <= last; ++code) {
      const int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
      const int whole = mantissa + (exponent > 0 ? 1 << mantissa_bits : 0);
      EXPECT_EQ(numbers[static_cast<size_t>(code)], std::ldexp(whole, std::max(exponent, 1) - bias - mantissa_bits));
    }
  }
}

TEST(QuantTypeTest, RefusesOtherNames) {
  for (const char* name : {"", "int", "int0", "int33", "uint0", "auto", "auto16", "fp8", "fp8_e3m4", "int08", "int+8",
                           "int 8", "INT8", "float8", "int8 ", "int-4"}) {
    const auto parsed = ParseQuantType(name);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("int1 to int32"));
  }
}

TEST(ResolveSpecTest, CodesAndZeroPoints) {
  const QuantRules int8 = ResolvedRules("int8", QuantScheme::kSymmetric);
  EXPECT_EQ(int8.qmin, -128);
  EXPECT_EQ(int8.qmax, 127);
  EXPECT_EQ(int8.symmetric_zero_point, 0);
  EXPECT_EQ(int8.symmetric_divisor(), 127.5);
  const QuantRules uint8 = ResolvedRules("uint8", QuantScheme::kSymmetric);
  EXPECT_EQ(uint8.qmin, 0);
  EXPECT_EQ(uint8.qmax, 255);
  EXPECT_EQ(uint8.symmetric_zero_point, 128);
  EXPECT_EQ(ResolvedRules("uint16", QuantScheme::kSymmetric).symmetric_zero_point, 32768);
  const QuantRules narrow = ResolvedRules("int4", QuantScheme::kSymmetric, QuantPreset::kPytorch, true);
  EXPECT_EQ(narrow.qmin, -7);
  EXPECT_EQ(narrow.symmetric_divisor(), 7);
  EXPECT_EQ(ResolvedRules("uint8", QuantScheme::kSymmetric, QuantPreset::kPytorch, true).symmetric_zero_point, 128);
}

TEST(ResolveSpecTest, TensorrtIsNarrowWhenSigned) {
  const QuantRules int8 = ResolvedRules("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt);
  EXPECT_EQ(int8.qmin, -127);
  EXPECT_EQ(int8.qmax, 127);
  EXPECT_EQ(int8.symmetric_divisor(), 127);
  const QuantRules full = ResolvedRules("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt, false);
  EXPECT_EQ(full.qmin, -128);
  EXPECT_EQ(full.symmetric_divisor(), 127);
  const QuantRules uint8 = ResolvedRules("uint8", QuantScheme::kSymmetric, QuantPreset::kTensorrt);
  EXPECT_EQ(uint8.qmin, 0);
  EXPECT_EQ(uint8.symmetric_zero_point, 0);
  EXPECT_EQ(uint8.symmetric_divisor(), 255);
}

TEST(ResolveSpecTest, RefusesWhatThePresetHasNot) {
  QuantSpec affine;
  affine.preset = QuantPreset::kTensorrt;
  affine.scheme = QuantScheme::kAffine;
  EXPECT_EQ(ResolveSpec(affine).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ResolveSpec(affine).status().message()), HasSubstr("ask for the symmetric scheme"));
  QuantSpec narrow;
  narrow.preset = QuantPreset::kTensorrt;
  narrow.type.is_signed = false;
  narrow.narrow_range = true;
  EXPECT_THAT(std::string(ResolveSpec(narrow).status().message()), HasSubstr("full range"));
  QuantSpec wide;
  wide.type.bits = 33;
  EXPECT_THAT(std::string(ResolveSpec(wide).status().message()), HasSubstr("33 bits"));
  wide.type.bits = 0;
  EXPECT_EQ(ResolveSpec(wide).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ParamsForRangeTest, Affine) {
  const QuantRules rules = ResolvedRules("uint8", QuantScheme::kAffine);
  EXPECT_EQ(ParamsForRange(rules, {-1, 1}), (QParams{2.0f / 255.0f, 127}));
  EXPECT_EQ(ParamsForRange(rules, {-0.5, 254.5}), (QParams{1, 0}));  // ties go to even
  EXPECT_EQ(ParamsForRange(rules, {-1.5, 253.5}), (QParams{1, 2}));
  EXPECT_EQ(ParamsForRange(rules, {-2.5, 252.5}), (QParams{1, 2}));
  EXPECT_EQ(ParamsForRange(rules, {-1.25, 1.3}), (QParams{2.55f / 255.0f, 125}));
  EXPECT_EQ(ParamsForRange(rules, {2, 4}), (QParams{4.0f / 255.0f, 0}));
  EXPECT_EQ(ParamsForRange(rules, {-4, -2}), (QParams{4.0f / 255.0f, 255}));
  EXPECT_EQ(ParamsForRange(rules, {0, 0}), (QParams{FLT_EPSILON, 0}));
  EXPECT_EQ(ParamsForRange(ResolvedRules("int8", QuantScheme::kAffine), {0, 0}), (QParams{FLT_EPSILON, -128}));
}

TEST(ParamsForRangeTest, ZeroPointIsACode) {
  std::mt19937_64 rng(3);
  std::lognormal_distribution<double> width(0, 4);
  for (const char* type : {"int2", "uint4", "int8", "uint16"}) {
    const QuantRules rules = ResolvedRules(type, QuantScheme::kAffine);
    for (int i = 0; i < 1000; ++i) {
      const QParams params = ParamsForRange(rules, {-width(rng), i % 2 == 0 ? 0 : width(rng)});
      EXPECT_GE(params.zero_point, rules.qmin);
      EXPECT_LE(params.zero_point, rules.qmax);
    }
  }
}

TEST(ParamsForRangeTest, TensorrtTreatsTinyAmplitudesAsZero) {
  const QuantRules rules = ResolvedRules("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt);
  EXPECT_EQ(ParamsForRange(rules, {0, std::ldexp(1.0, -24)}).scale, 1);
  EXPECT_EQ(ParamsForRange(rules, {0, 0}).scale, 1);
  EXPECT_EQ(ParamsForRange(rules, {0, std::ldexp(1.0, -23)}).scale, std::ldexp(1.0f, -23) / 127);
  EXPECT_EQ(ParamsForRange(rules, {-1.016, 1}).scale, 1.016f / 127);
}

TEST(ParamsForRangeTest, BeyondFloat32IsDividedInDouble) {
  const double most = FLT_MAX;
  EXPECT_EQ(ParamsForRange(ResolvedRules("int8", QuantScheme::kAffine), {-most, most}),
            (QParams{static_cast<float>(2 * most / 255), 0}));
  EXPECT_EQ(ParamsForRange(ResolvedRules("int8", QuantScheme::kSymmetric), {-most, most}).scale,
            static_cast<float>(FLT_MAX) / 127.5f);
  EXPECT_EQ(ParamsForRange(ResolvedRules("int8", QuantScheme::kSymmetric), {-1.5 * most, 0}).scale,
            static_cast<float>(1.5 * most / 127.5));
  EXPECT_EQ(ParamsForRange(ResolvedRules("int2", QuantScheme::kSymmetric), {0, 1e300}).scale, FLT_MAX);
}

TEST(RangeForParamsTest, ComesBackFromEveryZeroPoint) {
  std::mt19937_64 rng(7);
  std::uniform_real_distribution<double> exponent(-37, 36);
  for (const QuantPreset preset : {QuantPreset::kPytorch, QuantPreset::kTensorrt}) {
    for (const char* type : {"int2", "uint3", "int4", "int8", "uint8", "int16", "uint16"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        if (preset == QuantPreset::kTensorrt && scheme == QuantScheme::kAffine) continue;
        QuantRules rules = ResolvedRules(type, scheme, preset);
        rules = WithoutFloors(rules);
        rules.zero_amplitude = -1;
        std::uniform_int_distribution<int64_t> zero_point(rules.qmin, rules.qmax);
        for (int i = 0; i < 300; ++i) {
          const double scale = std::pow(10.0, exponent(rng));
          const int64_t wanted = rules.symmetric ? rules.symmetric_zero_point : zero_point(rng);
          const QParams params = ParamsForRange(rules, RangeForParams(rules, scale, wanted));
          EXPECT_EQ(params.zero_point, wanted) << type << " " << scale;
          EXPECT_NEAR(params.scale / scale, 1, 3e-7) << type << " " << scale;
        }
      }
    }
  }
}

}  // namespace
}  // namespace calib
