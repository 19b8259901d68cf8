#include "quant/quant_spec.h"

#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace calib {
namespace {

// The greatest whole number that is not above half of x.
int64_t FloorHalf(int64_t x) { return x >= 0 ? x / 2 : -((1 - x) / 2); }

// As onnxruntime's quant_utils.py has the ranges of 4, 8 and 16 bits: 8 and more are narrow when symmetric, and reduced
// to as many codes above zero as below; fewer are neither.
CodeRange OnnxruntimeCodes(const QuantSpec& spec, CodeRange codes) {
  const bool is_signed = spec.type.is_signed, wide = spec.type.bits >= 8;
  if (spec.reduce_range) {
    codes = {FloorHalf(codes.qmin), FloorHalf(codes.qmax)};
    if (is_signed && wide) codes.qmax = -codes.qmin;
  }
  const bool narrow = spec.narrow_range.value_or(spec.scheme == QuantScheme::kSymmetric && wide && !spec.reduce_range);
  if (narrow) is_signed ? ++codes.qmin : --codes.qmax;
  return codes;
}

// The codes that the spec leaves, without regard to whether they make sense.
CodeRange ChooseCodes(const QuantSpec& spec) {
  if (spec.codes.has_value()) {
    CodeRange codes = *spec.codes;
    if (spec.reduce_range) codes = {FloorHalf(codes.qmin), FloorHalf(codes.qmax)};
    return codes;
  }
  CodeRange codes = {spec.type.qmin(), spec.type.qmax()};
  if (spec.preset == QuantPreset::kOnnxruntime) return OnnxruntimeCodes(spec, codes);
  if (spec.reduce_range) codes = {FloorHalf(codes.qmin), FloorHalf(codes.qmax)};
  const bool narrow_signed = spec.preset == QuantPreset::kTensorrt || spec.preset == QuantPreset::kMxnet;
  if (spec.narrow_range.value_or(narrow_signed && spec.type.is_signed && spec.type.bits > 1)) {
    spec.preset == QuantPreset::kAimet && !spec.type.is_signed ? --codes.qmax : ++codes.qmin;
  }
  return codes;
}

absl::Status CheckInteger(const QuantSpec& spec) {
  const QuantType& type = spec.type;
  if (type.bits < 1 || type.bits > QuantType::kMostBits) {
    return absl::InvalidArgumentError(
        absl::StrCat("a quantized type of ", type.bits, " bits is not supported; use 1 to ", QuantType::kMostBits));
  }
  if (!spec.codes.has_value()) return absl::OkStatus();
  const CodeRange& codes = *spec.codes;
  if (spec.narrow_range.has_value()) {
    return absl::InvalidArgumentError("codes and narrow_range are both given; leave one of them out");
  }
  if (codes.qmin < type.qmin() || codes.qmax > type.qmax()) {
    return absl::InvalidArgumentError(absl::StrCat("codes ", codes.qmin, " to ", codes.qmax, " are not all in ",
                                                   type.Name(), ", which has ", type.qmin(), " to ", type.qmax()));
  }
  if (codes.qmin > 0 || codes.qmax < 0 || codes.qmin >= codes.qmax) {
    return absl::InvalidArgumentError(
        absl::StrCat("codes ", codes.qmin, " to ", codes.qmax,
                     " do not include 0 and another; give qmin <= 0 <= qmax, qmin < qmax"));
  }
  return absl::OkStatus();
}

absl::Status CheckFloat8(const QuantSpec& spec) {
  const std::string name = spec.type.Name();
  if (spec.scheme == QuantScheme::kAffine) {
    return absl::InvalidArgumentError(
        absl::StrCat("type ", name, " has no zero point; ask for the symmetric scheme, or for an integer type"));
  }
  if (spec.narrow_range.has_value() || spec.codes.has_value() || spec.reduce_range) {
    return absl::InvalidArgumentError(
        absl::StrCat("type ", name, " is used whole; leave narrow_range, codes and reduce_range out"));
  }
  return absl::OkStatus();
}

absl::string_view Label(QuantPreset preset) {
  constexpr absl::string_view kLabels[] = {"pytorch", "tensorrt", "megengine", "onnxruntime",
                                           "mxnet",   "aimet",    "mmrazor"};  // by QuantPreset
  return kLabels[static_cast<size_t>(preset)];
}

absl::Status CheckPreset(const QuantSpec& spec, const QuantRules& rules) {
  const absl::string_view preset = Label(spec.preset);
  if (!rules.symmetric && (spec.preset == QuantPreset::kTensorrt || spec.preset == QuantPreset::kMxnet)) {
    return absl::InvalidArgumentError(
        absl::StrCat("preset ", preset, " has no affine scheme; ask for the symmetric scheme, or for preset pytorch"));
  }
  if (rules.symmetric && spec.reduce_range && !spec.type.is_signed &&
      (spec.preset == QuantPreset::kPytorch || spec.preset == QuantPreset::kMmrazor)) {
    return absl::InvalidArgumentError(
        absl::StrCat("preset ", preset, " has no reduced range of ", spec.type.Name(),
                     " in the symmetric scheme; ask for the affine scheme, or for a signed type"));
  }
  if (rules.qmin >= rules.qmax) {
    return absl::InvalidArgumentError(
        absl::StrCat("this leaves ", spec.type.Name(), " a single code; ask for more bits, or for the full range"));
  }
  if (rules.symmetric && rules.symmetric_zero_point < rules.qmin) {
    return absl::InvalidArgumentError(absl::StrCat(
        "preset ", preset, " puts zero at code ", rules.symmetric_zero_point, " of ", spec.type.Name(),
        ", which this range leaves out; ask for the full range, for a signed type, or for preset pytorch"));
  }
  if (rules.symmetric && rules.symmetric_divisor() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no code of ", rules.qmin, " to ", rules.qmax,
                     " is above zero, from which this preset takes the scale; ask for more bits or codes"));
  }
  return absl::OkStatus();
}

// Everything but the codes.
void ApplyPreset(const QuantSpec& spec, QuantRules* rules) {
  using Arithmetic = QuantRules::Arithmetic;
  using Formula = QuantRules::ZeroPointFormula;
  const int64_t qmin = rules->qmin, qmax = rules->qmax;
  const bool unsigned_type = !spec.type.is_signed;
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  switch (spec.preset) {
    case QuantPreset::kPytorch:
      rules->scale_floor = kEpsilon;
      if (unsigned_type) rules->symmetric_zero_point = (qmin + qmax + (spec.codes.has_value() ? 0 : 1)) / 2;
      return;
    case QuantPreset::kMmrazor:  // gives PyTorch's observers custom ranges always
      rules->scale_floor = kEpsilon;
      if (unsigned_type) rules->symmetric_zero_point = (qmin + qmax) / 2;
      return;
    case QuantPreset::kMegengine:
      rules->scale_floor = 1e-5f;
      rules->zero_point_formula = Formula::kAway;
      return;
    case QuantPreset::kOnnxruntime:
      rules->arithmetic = Arithmetic::kFloat32Width;
      rules->zero_point_formula = Formula::kEvenOfDifference;
      rules->least_scale = std::numeric_limits<float>::min();
      // Half of the sum, rounded half to even. Halves come from odd sums, whose neighbours are an even and an odd
      // number.
      rules->symmetric_zero_point = FloorHalf(qmin + qmax);
      if ((qmin + qmax) % 2 != 0 && rules->symmetric_zero_point % 2 != 0) ++rules->symmetric_zero_point;
      return;
    case QuantPreset::kTensorrt:
      rules->divisor = QuantRules::SymmetricDivisor::kQmax;
      rules->zero_amplitude = std::ldexp(1.0f, -24);
      return;
    case QuantPreset::kMxnet:
      rules->divisor = QuantRules::SymmetricDivisor::kQmax;
      rules->zero_amplitude = 0;
      rules->scale_floor = std::numeric_limits<float>::min();
      return;
    case QuantPreset::kAimet:
      rules->arithmetic = Arithmetic::kFloat64;
      rules->zero_point_formula = Formula::kAwayClamped;
      rules->divisor = QuantRules::SymmetricDivisor::kQmax;
      rules->least_width = 0.01;
      rules->symmetric_zero_point = qmin + (qmax - qmin + 1) / 2;
      return;
  }
}

}  // namespace

QuantSpec ResolveAuto(const QuantSpec& spec, double min) {
  QuantSpec resolved = spec;
  if (spec.type.kind == CodeKind::kAuto8) resolved.type = {CodeKind::kInteger, 8, min < 0};
  return resolved;
}

absl::StatusOr<QuantRules> ResolveSpec(const QuantSpec& spec) {
  if (spec.type.kind == CodeKind::kAuto8) {
    const absl::StatusOr<QuantRules> without_negatives = ResolveSpec(ResolveAuto(spec, 0));
    if (!without_negatives.ok()) return without_negatives.status();
    return ResolveSpec(ResolveAuto(spec, -1));
  }
  const bool float8 = IsFloat8(spec.type.kind);
  if (absl::Status status = float8 ? CheckFloat8(spec) : CheckInteger(spec); !status.ok()) return status;
  QuantRules rules;
  rules.kind = spec.type.kind;
  rules.symmetric = spec.scheme == QuantScheme::kSymmetric;
  rules.power_of_two_scale = spec.power_of_two_scale;
  const CodeRange codes = float8 ? CodeRange{spec.type.qmin(), spec.type.qmax()} : ChooseCodes(spec);
  rules.qmin = codes.qmin;
  rules.qmax = codes.qmax;
  ApplyPreset(spec, &rules);
  if (absl::Status status = CheckPreset(spec, rules); !status.ok()) return status;
  return rules;
}

}  // namespace calib
