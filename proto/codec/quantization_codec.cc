#include "proto/codec/quantization_codec.h"

#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

// QuantType's numbers: INTn is n, UINTn is 32 + n.
constexpr int kUnsigned = 32;
constexpr int kMostBits = 32;

constexpr absl::string_view kPresetNames[] = {"pytorch", "tensorrt", "megengine", "onnxruntime",
                                              "mxnet",   "aimet",    "mmrazor"};  // by QuantPreset, messages' less 1
static_assert(static_cast<int>(QuantPreset::kMmrazor) + 1 == v1::QUANT_PRESET_MMRAZOR);

// By CalibrationMethod; messages' numbers are one more.
static_assert(static_cast<int>(CalibrationMethod::kLsqPlus) + 1 == v1::CALIBRATION_METHOD_LSQ_PLUS);
static_assert(static_cast<int>(CalibrationMethod::kMse) + 1 == v1::CALIBRATION_METHOD_MSE);

QuantType DecodeQuantType(v1::QuantType type) {
  switch (type) {
    case v1::QUANT_TYPE_UNSPECIFIED:
      return {};
    case v1::QUANT_TYPE_FP8_E4M3:
      return {.kind = CodeKind::kFloat8E4M3};
    case v1::QUANT_TYPE_FP8_E5M2:
      return {.kind = CodeKind::kFloat8E5M2};
    case v1::QUANT_TYPE_AUTO8:
      return {.kind = CodeKind::kAuto8};
    default: {
      const bool is_signed = type <= kMostBits;
      return {.bits = is_signed ? type : type - kUnsigned, .is_signed = is_signed};
    }
  }
}

v1::QuantType EncodeQuantType(const QuantType& type) {
  switch (type.kind) {
    case CodeKind::kFloat8E4M3:
      return v1::QUANT_TYPE_FP8_E4M3;
    case CodeKind::kFloat8E5M2:
      return v1::QUANT_TYPE_FP8_E5M2;
    case CodeKind::kAuto8:
      return v1::QUANT_TYPE_AUTO8;
    case CodeKind::kInteger:
      break;
  }
  return static_cast<v1::QuantType>(type.bits + (type.is_signed ? 0 : kUnsigned));
}

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
  if (!v1::CalibrationMethod_IsValid(method.method())) return UnknownNumber("method", "method", method.method());
  if (method.method() != v1::CALIBRATION_METHOD_UNSPECIFIED) {
    spec.method = static_cast<CalibrationMethod>(method.method() - 1);
  }
  if (method.has_percentile()) {
    if (spec.method != CalibrationMethod::kPercentile) return ForeignParameter("percentile", spec.method);
    spec.percentile = method.percentile();
  }
  if (method.has_coverage()) {
    if (spec.method != CalibrationMethod::kCoverage) return ForeignParameter("coverage", spec.method);
    spec.coverage = method.coverage();
  }
  if (method.one_sided()) {
    if (spec.method != CalibrationMethod::kPercentile) return ForeignParameter("one_sided", spec.method);
    spec.one_sided = true;
  }
  if (method.has_norm()) {
    if (spec.method != CalibrationMethod::kMse) return ForeignParameter("norm", spec.method);
    spec.norm = method.norm();
  }
  if (method.entropy_variant() != v1::ENTROPY_VARIANT_UNSPECIFIED) {
    if (spec.method != CalibrationMethod::kEntropy) return ForeignParameter("entropy_variant", spec.method);
    if (!v1::EntropyVariant_IsValid(method.entropy_variant())) {
      return UnknownNumber("entropy_variant", "entropy variant", method.entropy_variant());
    }
    spec.entropy_variant =
        method.entropy_variant() == v1::ENTROPY_VARIANT_MXNET ? EntropyVariant::kMxnet : EntropyVariant::kTensorrt;
  }
  if (absl::Status status = CheckMethod(spec); !status.ok()) {
    return InvalidField(MethodName(spec.method), std::string(status.message()));
  }
  return spec;
}

v1::MethodSpec EncodeMethodSpec(const MethodSpec& method) {
  v1::MethodSpec message;
  message.set_method(static_cast<v1::CalibrationMethod>(static_cast<int>(method.method) + 1));
  switch (method.method) {
    case CalibrationMethod::kPercentile:
      message.set_percentile(method.percentile);
      message.set_one_sided(method.one_sided);
      break;
    case CalibrationMethod::kCoverage:
      message.set_coverage(method.coverage);
      break;
    case CalibrationMethod::kMse:
      if (method.norm != 2) message.set_norm(method.norm);
      break;
    case CalibrationMethod::kEntropy:
      message.set_entropy_variant(method.entropy_variant == EntropyVariant::kMxnet ? v1::ENTROPY_VARIANT_MXNET
                                                                                   : v1::ENTROPY_VARIANT_TENSORRT);
      break;
    default:
      break;
  }
  return message;
}

absl::StatusOr<QuantSpec> DecodeQuantSpec(const v1::QuantSpec& spec) {
  QuantSpec decoded;
  if (!v1::QuantType_IsValid(spec.type())) return UnknownNumber("type", "quantized type", spec.type());
  decoded.type = DecodeQuantType(spec.type());
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
  if (!v1::QuantPreset_IsValid(spec.preset())) return UnknownNumber("preset", "preset", spec.preset());
  if (spec.preset() != v1::QUANT_PRESET_UNSPECIFIED) {
    decoded.preset = static_cast<QuantPreset>(spec.preset() - 1);
  }
  if (spec.has_codes()) decoded.codes = {spec.codes().qmin(), spec.codes().qmax()};
  decoded.reduce_range = spec.reduce_range();
  decoded.power_of_two_scale = spec.power_of_two_scale();
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
  message.set_type(EncodeQuantType(spec.type));
  message.set_scheme(spec.scheme == QuantScheme::kSymmetric ? v1::QUANT_SCHEME_SYMMETRIC : v1::QUANT_SCHEME_AFFINE);
  if (spec.narrow_range.has_value()) message.set_narrow_range(*spec.narrow_range);
  message.set_preset(static_cast<v1::QuantPreset>(static_cast<int>(spec.preset) + 1));
  if (spec.codes.has_value()) {
    message.mutable_codes()->set_qmin(spec.codes->qmin);
    message.mutable_codes()->set_qmax(spec.codes->qmax);
  }
  message.set_reduce_range(spec.reduce_range);
  message.set_power_of_two_scale(spec.power_of_two_scale);
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
  for (size_t i = 0; i < std::size(kPresetNames); ++i) {
    if (name == kPresetNames[i]) return static_cast<QuantPreset>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown preset \"", name, "\"; use ", absl::StrJoin(kPresetNames, ", ")));
}

absl::string_view PresetName(QuantPreset preset) { return kPresetNames[static_cast<size_t>(preset)]; }

}  // namespace calib
