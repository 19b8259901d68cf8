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
  MethodSpec percentile{.method = CalibrationMethod::kPercentile, .percentile = 99.5};
  MethodSpec coverage{.method = CalibrationMethod::kCoverage, .coverage = 0.75};
  for (const MethodSpec& method : {MethodSpec{}, MethodSpec{.method = CalibrationMethod::kMse}, percentile, coverage}) {
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

TEST(QuantizationCodecTest, DefaultSpecIsInt8SymmetricPytorch) { EXPECT_EQ(DecodeQuantSpec({}).value(), QuantSpec{}); }

TEST(QuantizationCodecTest, EveryTypeHasItsNumberAndName) {
  for (int bits = 2; bits <= 16; ++bits) {
    for (const bool is_signed : {true, false}) {
      QuantSpec spec;
      spec.type = {CodeKind::kInteger, bits, is_signed};
      const v1::QuantSpec message = EncodeQuantSpec(spec);
      std::string name = v1::QuantType_Name(message.type());
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      EXPECT_EQ(name, "quant_type_" + spec.type.Name());
      EXPECT_EQ(DecodeQuantSpec(message).value(), spec);
    }
  }
}

TEST(QuantizationCodecTest, SpecsSurviveTheRoundTrip) {
  for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
    for (const std::optional<bool> narrow : {std::optional<bool>(), std::optional(false), std::optional(true)}) {
      for (const QuantPreset preset : {QuantPreset::kPytorch, QuantPreset::kTensorrt}) {
        for (const QuantGranularity granularity : {QuantGranularity::kPerTensor, QuantGranularity::kPerChannel}) {
          const QuantSpec spec{{.bits = 6}, scheme, narrow, preset, granularity};
          const absl::StatusOr<QuantSpec> decoded = DecodeQuantSpec(EncodeQuantSpec(spec));
          if (ResolveSpec(spec).ok()) {
            EXPECT_EQ(decoded.value(), spec);
          } else {
            EXPECT_EQ(GetReason(decoded.status()), v1::ERROR_REASON_SPEC_INVALID);
            EXPECT_EQ(decoded.status().message(), ResolveSpec(spec).status().message());
          }
        }
      }
    }
  }
}

TEST(QuantizationCodecTest, UnknownNumbersAreNamed) {
  for (const int type : {-3, 1, 17, 32, 33, 49, 1000}) {
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
  for (const QuantPreset preset : {QuantPreset::kPytorch, QuantPreset::kTensorrt}) {
    EXPECT_EQ(ParsePreset(PresetName(preset)).value(), preset);
  }
  EXPECT_EQ(PresetName(QuantPreset::kTensorrt), "tensorrt");
  EXPECT_EQ(ParsePreset("caffe").status().message(), "unknown preset \"caffe\"; use pytorch or tensorrt");
}

}  // namespace
}  // namespace calib
