#include "proto/codec/quantization_codec.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

// Where QuantType's numbers for unsigned types begin: UINTn is 32 + n.
constexpr int kUnsigned = 32;

absl::Status UnknownNumber(absl::string_view field, absl::string_view what, int number) {
  return InvalidField(
      field, absl::StrCat("no ", what, " has the number ", number, "; the server may be older than the client"));
}

absl::Status ForeignParameter(absl::string_view parameter, CalibrationMethod method) {
  return InvalidField(parameter, absl::StrCat("not a parameter of method ", MethodName(method), "; leave it out"));
}

}  // namespace

absl::StatusOr<MethodSpec> DecodeMethodSpec(const v1::MethodSpec& method) {
  MethodSpec spec;
  switch (method.method()) {
    case v1::CALIBRATION_METHOD_UNSPECIFIED:
    case v1::CALIBRATION_METHOD_MINMAX:
      spec.method = CalibrationMethod::kMinMax;
      break;
    case v1::CALIBRATION_METHOD_PERCENTILE:
      spec.method = CalibrationMethod::kPercentile;
      break;
    case v1::CALIBRATION_METHOD_COVERAGE:
      spec.method = CalibrationMethod::kCoverage;
      break;
    case v1::CALIBRATION_METHOD_MSE:
      spec.method = CalibrationMethod::kMse;
      break;
    default:
      return UnknownNumber("method", "method", method.method());
  }
  if (method.has_percentile()) {
    if (spec.method != CalibrationMethod::kPercentile) return ForeignParameter("percentile", spec.method);
    spec.percentile = method.percentile();
  }
  if (method.has_coverage()) {
    if (spec.method != CalibrationMethod::kCoverage) return ForeignParameter("coverage", spec.method);
    spec.coverage = method.coverage();
  }
  if (absl::Status status = CheckMethod(spec); !status.ok()) {
    return InvalidField(MethodName(spec.method), std::string(status.message()));
  }
  return spec;
}

v1::MethodSpec EncodeMethodSpec(const MethodSpec& method) {
  v1::MethodSpec message;
  switch (method.method) {
    case CalibrationMethod::kMinMax:
      message.set_method(v1::CALIBRATION_METHOD_MINMAX);
      break;
    case CalibrationMethod::kPercentile:
      message.set_method(v1::CALIBRATION_METHOD_PERCENTILE);
      message.set_percentile(method.percentile);
      break;
    case CalibrationMethod::kCoverage:
      message.set_method(v1::CALIBRATION_METHOD_COVERAGE);
      message.set_coverage(method.coverage);
      break;
    case CalibrationMethod::kMse:
      message.set_method(v1::CALIBRATION_METHOD_MSE);
      break;
  }
  return message;
}

absl::StatusOr<QuantSpec> DecodeQuantSpec(const v1::QuantSpec& spec) {
  QuantSpec decoded;
  if (spec.type() != v1::QUANT_TYPE_UNSPECIFIED) {
    if (!v1::QuantType_IsValid(spec.type())) return UnknownNumber("type", "quantized type", spec.type());
    decoded.type.is_signed = spec.type() < kUnsigned;
    decoded.type.bits = spec.type() % kUnsigned;
  }
  switch (spec.scheme()) {
    case v1::QUANT_SCHEME_UNSPECIFIED:
    case v1::QUANT_SCHEME_SYMMETRIC:
      decoded.scheme = QuantScheme::kSymmetric;
      break;
    case v1::QUANT_SCHEME_AFFINE:
      decoded.scheme = QuantScheme::kAffine;
      break;
    default:
      return UnknownNumber("scheme", "scheme", spec.scheme());
  }
  if (spec.has_narrow_range()) decoded.narrow_range = spec.narrow_range();
  switch (spec.preset()) {
    case v1::QUANT_PRESET_UNSPECIFIED:
    case v1::QUANT_PRESET_PYTORCH:
      decoded.preset = QuantPreset::kPytorch;
      break;
    case v1::QUANT_PRESET_TENSORRT:
      decoded.preset = QuantPreset::kTensorrt;
      break;
    default:
      return UnknownNumber("preset", "preset", spec.preset());
  }
  switch (spec.granularity()) {
    case v1::QUANT_GRANULARITY_UNSPECIFIED:
    case v1::QUANT_GRANULARITY_PER_TENSOR:
      decoded.granularity = QuantGranularity::kPerTensor;
      break;
    case v1::QUANT_GRANULARITY_PER_CHANNEL:
      decoded.granularity = QuantGranularity::kPerChannel;
      break;
    default:
      return UnknownNumber("granularity", "granularity", spec.granularity());
  }
  if (absl::StatusOr<QuantRules> rules = ResolveSpec(decoded); !rules.ok()) {
    return MakeError(v1::ERROR_REASON_SPEC_INVALID, rules.status());
  }
  return decoded;
}

v1::QuantSpec EncodeQuantSpec(const QuantSpec& spec) {
  v1::QuantSpec message;
  message.set_type(static_cast<v1::QuantType>(spec.type.bits + (spec.type.is_signed ? 0 : kUnsigned)));
  message.set_scheme(spec.scheme == QuantScheme::kSymmetric ? v1::QUANT_SCHEME_SYMMETRIC : v1::QUANT_SCHEME_AFFINE);
  if (spec.narrow_range.has_value()) message.set_narrow_range(*spec.narrow_range);
  message.set_preset(spec.preset == QuantPreset::kPytorch ? v1::QUANT_PRESET_PYTORCH : v1::QUANT_PRESET_TENSORRT);
  message.set_granularity(spec.granularity == QuantGranularity::kPerTensor ? v1::QUANT_GRANULARITY_PER_TENSOR
                                                                           : v1::QUANT_GRANULARITY_PER_CHANNEL);
  return message;
}

void EncodeLayerQParams(const LayerQParams& qparams, v1::LayerQParams* message) {
  for (const QParams& params : qparams.params) {
    message->add_scale(params.scale);
    message->add_zero_point(params.zero_point);
  }
  message->set_qmin(qparams.rules.qmin);
  message->set_qmax(qparams.rules.qmax);
  if (!qparams.range.empty()) {
    message->set_min(qparams.range.min);
    message->set_max(qparams.range.max);
  }
  for (const ClipRange& clip : qparams.clip) {
    message->add_clip_min(clip.min);
    message->add_clip_max(clip.max);
  }
  message->set_count(qparams.range.count);
  message->set_nan(qparams.range.nan);
  message->set_inf(qparams.range.infinities());
  if (qparams.error.has_value()) {
    message->set_mse(qparams.error->mse());
    message->set_sqnr_db(qparams.error->sqnr_db());
    message->set_clipped(qparams.error->clipped());
  }
}

absl::StatusOr<QuantPreset> ParsePreset(absl::string_view name) {
  for (const QuantPreset preset : {QuantPreset::kPytorch, QuantPreset::kTensorrt}) {
    if (name == PresetName(preset)) return preset;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown preset \"", name, "\"; use pytorch or tensorrt"));
}

absl::string_view PresetName(QuantPreset preset) { return preset == QuantPreset::kPytorch ? "pytorch" : "tensorrt"; }

}  // namespace calib
