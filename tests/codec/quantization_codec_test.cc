#include "proto/codec/quantization_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <limits>
#include <optional>
#include <string>

#include "proto/codec/error.h"

namespace calib {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(QuantizationCodecTest, DefaultMethodIsMinMax) { EXPECT_EQ(DecodeMethodSpec({}).value(), MethodSpec{}); }

TEST(QuantizationCodecTest, MethodsSurviveTheRoundTrip) {
  for (int number = 0; number <= static_cast<int>(CalibrationMethod::kLsqPlus); ++number) {
    const MethodSpec method{.method = static_cast<CalibrationMethod>(number)};
    const v1::MethodSpec message = EncodeMethodSpec(method);
    EXPECT_EQ(DecodeMethodSpec(message).value(), method);
    std::string name = v1::CalibrationMethod_Name(message.method());
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    EXPECT_EQ(name, "calibration_method_" + std::string(MethodName(method.method)));
  }
  for (const MethodSpec& method :
       {MethodSpec{.method = CalibrationMethod::kPercentile, .percentile = 99.5},
        MethodSpec{.method = CalibrationMethod::kPercentile, .percentile = 90, .one_sided = true},
        MethodSpec{.method = CalibrationMethod::kCoverage, .coverage = 0.75},
        MethodSpec{.method = CalibrationMethod::kMse, .norm = 2.4}, MethodSpec{.method = CalibrationMethod::kMse},
        MethodSpec{.method = CalibrationMethod::kEntropy, .entropy_variant = EntropyVariant::kTensorrt},
        MethodSpec{.method = CalibrationMethod::kEntropy, .entropy_variant = EntropyVariant::kMxnet}}) {
    EXPECT_EQ(DecodeMethodSpec(EncodeMethodSpec(method)).value(), method);
  }
}

TEST(QuantizationCodecTest, ParametersHaveDefaults) {
  v1::MethodSpec message;
  message.set_method(v1::CALIBRATION_METHOD_PERCENTILE);
  EXPECT_EQ(DecodeMethodSpec(message)->percentile, 99.99);
  EXPECT_EQ(EncodeMethodSpec(*DecodeMethodSpec(message)).percentile(), 99.99);
  message.set_method(v1::CALIBRATION_METHOD_COVERAGE);
  EXPECT_EQ(DecodeMethodSpec(message)->coverage, 0.9999);
}

TEST(QuantizationCodecTest, MalformedMethodsAreRefused) {
  v1::MethodSpec message;
  message.set_method(static_cast<v1::CalibrationMethod>(99));
  absl::Status status = DecodeMethodSpec(message).status();
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_THAT(std::string(status.message()), HasSubstr("method: no method has the number 99"));

  message.set_method(v1::CALIBRATION_METHOD_PERCENTILE);
  for (const double percentile :
       {0.0, -1.0, 100.5, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    message.set_percentile(percentile);
    status = DecodeMethodSpec(message).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << percentile;
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), "percentile");
  }
  message.set_percentile(100);
  EXPECT_TRUE(DecodeMethodSpec(message).ok());

  message.set_method(v1::CALIBRATION_METHOD_MSE);
  status = DecodeMethodSpec(message).status();
  EXPECT_EQ(status.message(), "percentile: not a parameter of method mse; leave it out");
  message.clear_percentile();
  message.set_coverage(0.5);
  EXPECT_EQ(GetErrorInfo(DecodeMethodSpec(message).status())->metadata().at("field"), "coverage");
}

TEST(QuantizationCodecTest, ForeignParametersAreRefused) {
  struct Parameter {
    std::string name;
    v1::CalibrationMethod owner;
    void (*set)(v1::MethodSpec*);
  };
  const Parameter parameters[] = {
      {"percentile", v1::CALIBRATION_METHOD_PERCENTILE, [](v1::MethodSpec* m) { m->set_percentile(99); }},
      {"one_sided", v1::CALIBRATION_METHOD_PERCENTILE, [](v1::MethodSpec* m) { m->set_one_sided(true); }},
      {"coverage", v1::CALIBRATION_METHOD_COVERAGE, [](v1::MethodSpec* m) { m->set_coverage(0.5); }},
      {"norm", v1::CALIBRATION_METHOD_MSE, [](v1::MethodSpec* m) { m->set_norm(3); }},
      {"entropy_variant", v1::CALIBRATION_METHOD_ENTROPY,
       [](v1::MethodSpec* m) { m->set_entropy_variant(v1::ENTROPY_VARIANT_TENSORRT); }},
  };
  for (int number = 0; number < v1::CalibrationMethod_ARRAYSIZE; ++number) {
    for (const Parameter& parameter : parameters) {
      v1::MethodSpec message;
      message.set_method(static_cast<v1::CalibrationMethod>(number));
      parameter.set(&message);
      const absl::Status status = DecodeMethodSpec(message).status();
      if (number == parameter.owner) {
        EXPECT_TRUE(status.ok()) << status;
      } else {
        EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << number << " " << parameter.name;
        EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), parameter.name);
      }
    }
  }
}

TEST(QuantizationCodecTest, ParametersOutsideTheirRangeAreRefused) {
  v1::MethodSpec message;
  message.set_method(v1::CALIBRATION_METHOD_MSE);
  for (const double norm : {0.99, 8.01, 0.0, -2.0, std::numeric_limits<double>::quiet_NaN()}) {
    message.set_norm(norm);
    EXPECT_EQ(GetReason(DecodeMethodSpec(message).status()), v1::ERROR_REASON_INVALID_FIELD) << norm;
  }
  for (const double norm : {1.0, 8.0}) {
    message.set_norm(norm);
    EXPECT_EQ(DecodeMethodSpec(message)->norm, norm);
  }
  message.Clear();
  message.set_method(v1::CALIBRATION_METHOD_ENTROPY);
  message.set_entropy_variant(static_cast<v1::EntropyVariant>(3));
  const absl::Status status = DecodeMethodSpec(message).status();
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), "entropy_variant");
}

TEST(QuantizationCodecTest, DefaultSpecIsInt8SymmetricPytorch) { EXPECT_EQ(DecodeQuantSpec({}).value(), QuantSpec{}); }

TEST(QuantizationCodecTest, EveryTypeHasItsNumberAndName) {
  int types = 0;
  for (int number = 1; number < v1::QuantType_ARRAYSIZE; ++number) {
    ASSERT_TRUE(v1::QuantType_IsValid(number)) << number;
    ++types;
    std::string name = v1::QuantType_Name(static_cast<v1::QuantType>(number)).substr(sizeof("QUANT_TYPE"));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    v1::QuantSpec message;
    message.set_type(static_cast<v1::QuantType>(number));
    const absl::StatusOr<QuantType> type = ParseQuantType(name);
    ASSERT_TRUE(type.ok()) << type.status();
    EXPECT_EQ(type->Name(), name);
    QuantSpec spec;
    spec.type = *type;
    EXPECT_EQ(EncodeQuantSpec(spec).type(), number) << name;
    const absl::StatusOr<QuantSpec> decoded = DecodeQuantSpec(message);
    ASSERT_EQ(decoded.ok(), ResolveSpec(spec).ok()) << name;
    if (decoded.ok()) {
      EXPECT_EQ(*decoded, spec) << name;
    }
  }
  EXPECT_EQ(types, 32 + 32 + 3);
}

// Every combination comes back as it was, or is refused for what ResolveSpec says.
TEST(QuantizationCodecTest, SpecsSurviveTheRoundTrip) {
  const QuantType types[] = {{.bits = 1},
                             {.bits = 6},
                             {.bits = 8, .is_signed = false},
                             {.bits = 32},
                             {.kind = CodeKind::kFloat8E4M3},
                             {.kind = CodeKind::kFloat8E5M2},
                             {.kind = CodeKind::kAuto8}};
  const std::optional<CodeRange> codes[] = {std::nullopt, CodeRange{0, 1}, CodeRange{-5, 9}};
  int refused = 0;
  int passed = 0;
  for (unsigned choice = 0; choice < 7 * 7 * 2 * 3 * 3 * 8; ++choice) {
    unsigned rest = choice;
    const auto pick = [&rest](unsigned n) {
      const unsigned picked = rest % n;
      rest /= n;
      return picked;
    };
    QuantSpec spec;
    spec.type = types[pick(7)];
    spec.preset = static_cast<QuantPreset>(pick(7));
    spec.scheme = static_cast<QuantScheme>(pick(2));
    if (const unsigned narrow = pick(3); narrow > 0) spec.narrow_range = narrow == 1;
    spec.codes = codes[pick(3)];
    spec.granularity = static_cast<QuantGranularity>(pick(2));
    spec.reduce_range = pick(2) == 1;
    spec.power_of_two_scale = pick(2) == 1;
    const absl::StatusOr<QuantSpec> decoded = DecodeQuantSpec(EncodeQuantSpec(spec));
    if (const absl::StatusOr<QuantRules> rules = ResolveSpec(spec); rules.ok()) {
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      ASSERT_EQ(*decoded, spec);
      ++passed;
    } else {
      ASSERT_EQ(GetReason(decoded.status()), v1::ERROR_REASON_SPEC_INVALID);
      ASSERT_EQ(decoded.status().message(), rules.status().message());
      ++refused;
    }
  }
  EXPECT_GT(passed, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(QuantizationCodecTest, CodesThatContradictTheTypeAreRefused) {
  v1::QuantSpec message;
  message.set_type(v1::QUANT_TYPE_INT4);
  message.mutable_codes()->set_qmin(-8);
  message.mutable_codes()->set_qmax(7);
  EXPECT_EQ(DecodeQuantSpec(message)->codes, (CodeRange{-8, 7}));
  const auto reason = [&] { return GetReason(DecodeQuantSpec(message).status()); };
  message.set_narrow_range(false);
  EXPECT_EQ(reason(), v1::ERROR_REASON_SPEC_INVALID) << "codes and narrow_range";
  message.clear_narrow_range();
  message.mutable_codes()->set_qmax(8);
  EXPECT_EQ(reason(), v1::ERROR_REASON_SPEC_INVALID) << "beyond int4";
  message.mutable_codes()->set_qmax(0);
  message.mutable_codes()->set_qmin(0);
  EXPECT_EQ(reason(), v1::ERROR_REASON_SPEC_INVALID) << "a single code";
  message.mutable_codes()->set_qmin(1);
  message.mutable_codes()->set_qmax(3);
  EXPECT_EQ(reason(), v1::ERROR_REASON_SPEC_INVALID) << "without zero";
}

TEST(QuantizationCodecTest, UnknownNumbersAreNamed) {
  for (const int type : {-3, 68, 99, 1000}) {
    v1::QuantSpec message;
    message.set_type(static_cast<v1::QuantType>(type));
    const absl::Status status = DecodeQuantSpec(message).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << type;
    EXPECT_THAT(std::string(status.message()), HasSubstr("type has the number " + std::to_string(type)));
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), "type");
  }
  const auto field_of = [](auto set) {
    v1::QuantSpec message;
    set(&message);
    const absl::Status status = DecodeQuantSpec(message).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("number 42"));
    return GetErrorInfo(status)->metadata().at("field");
  };
  EXPECT_EQ(field_of([](auto* m) { m->set_scheme(static_cast<v1::QuantScheme>(42)); }), "scheme");
  EXPECT_EQ(field_of([](auto* m) { m->set_preset(static_cast<v1::QuantPreset>(42)); }), "preset");
  EXPECT_EQ(field_of([](auto* m) { m->set_granularity(static_cast<v1::QuantGranularity>(42)); }), "granularity");
}

TEST(QuantizationCodecTest, EncodesAnAnswer) {
  LayerQParams qparams;
  qparams.params = {{0.5f, 0}, {0.25f, 3}};
  qparams.clip = {{-1, 2}, {-3, 4}};
  qparams.rules.qmin = -127;
  qparams.rules.qmax = 127;
  qparams.range = {.min = -3, .max = 4, .count = 10, .nan = 1, .positive_infinity = 2, .negative_infinity = 3};
  qparams.error = ExpectedError{.count = 10, .squared_error = 5, .square_sum = 500, .saturated = 1};
  v1::LayerQParams message;
  EncodeLayerQParams(qparams, &message);
  EXPECT_THAT(message.scale(), ElementsAre(0.5f, 0.25f));
  EXPECT_THAT(message.zero_point(), ElementsAre(0, 3));
  EXPECT_THAT(message.clip_min(), ElementsAre(-1, -3));
  EXPECT_THAT(message.clip_max(), ElementsAre(2, 4));
  EXPECT_EQ(message.qmin(), -127);
  EXPECT_EQ(message.qmax(), 127);
  EXPECT_EQ(message.min(), -3);
  EXPECT_EQ(message.max(), 4);
  EXPECT_EQ(message.count(), 10u);
  EXPECT_EQ(message.nan(), 1u);
  EXPECT_EQ(message.inf(), 5u);
  EXPECT_EQ(message.mse(), 0.5);
  EXPECT_DOUBLE_EQ(message.sqnr_db(), 20);
  EXPECT_EQ(message.clipped(), 0.1);
}

TEST(QuantizationCodecTest, AnAnswerWithoutHistogramHasNoError) {
  LayerQParams qparams;
  qparams.params = {{1, 0}};
  qparams.clip = {{0, 0}};
  qparams.range.nan = 4;
  v1::LayerQParams message;
  EncodeLayerQParams(qparams, &message);
  EXPECT_FALSE(message.has_mse());
  EXPECT_FALSE(message.has_sqnr_db());
  EXPECT_FALSE(message.has_clipped());
  EXPECT_EQ(message.min(), 0);
  EXPECT_EQ(message.max(), 0);
  EXPECT_EQ(message.nan(), 4u);
}

TEST(QuantizationCodecTest, PresetsHaveNames) {
  for (int number = 1; number < v1::QuantPreset_ARRAYSIZE; ++number) {
    std::string name = v1::QuantPreset_Name(static_cast<v1::QuantPreset>(number)).substr(sizeof("QUANT_PRESET"));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const absl::StatusOr<QuantPreset> preset = ParsePreset(name);
    ASSERT_TRUE(preset.ok()) << preset.status();
    EXPECT_EQ(PresetName(*preset), name);
    QuantSpec spec;
    spec.preset = *preset;
    EXPECT_EQ(EncodeQuantSpec(spec).preset(), number);
  }
  const absl::Status unknown = ParsePreset("caffe").status();
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("unknown preset \"caffe\"; use pytorch, "));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("mmrazor"));
}

}  // namespace
}  // namespace calib
