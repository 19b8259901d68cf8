#include "quant/quant_spec.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace calib {
namespace {

constexpr int kMinBits = 2;
constexpr int kMaxBits = 16;
constexpr double kGreatestFloat = std::numeric_limits<float>::max();

// Rounds half to even whatever the rounding mode of the thread is.
float RoundHalfEven(float x) {
  const float below = std::floor(x);
  const float rest = x - below;
  if (rest < 0.5f) return below;
  if (rest > 0.5f) return below + 1;
  return std::fmod(below, 2.0f) == 0 ? below : below + 1;
}

// width / divisor in float32, or in double where float32 can't hold the width.
float DivideWidth(double width, float float_width, double divisor) {
  if (std::isfinite(float_width)) return float_width / static_cast<float>(divisor);
  return static_cast<float>(std::min(width / divisor, kGreatestFloat));
}

float ToFloat(double x) {
  if (std::abs(x) > kGreatestFloat)
    return std::copysign(std::numeric_limits<float>::infinity(), static_cast<float>(x > 0 ? 1 : -1));
  return static_cast<float>(x);
}

}  // namespace

std::string QuantType::Name() const { return absl::StrCat(is_signed ? "int" : "uint", bits); }

absl::StatusOr<QuantType> ParseQuantType(absl::string_view name) {
  QuantType type;
  absl::string_view digits = name;
  type.is_signed = !absl::ConsumePrefix(&digits, "u");
  // Comparing with Name() refuses the blanks, signs and leading zeros that SimpleAtoi accepts.
  if (absl::ConsumePrefix(&digits, "int") && absl::SimpleAtoi(digits, &type.bits) && type.bits >= kMinBits &&
      type.bits <= kMaxBits && name == type.Name()) {
    return type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown quantized type \"", name, "\"; use int2 to int16 or uint2 to uint16"));
}

double QuantRules::symmetric_divisor() const {
  return divisor == SymmetricDivisor::kHalfCodes ? static_cast<double>(qmax - qmin) / 2
                                                 : static_cast<double>(qmax - symmetric_zero_point);
}

absl::StatusOr<QuantRules> ResolveSpec(const QuantSpec& spec) {
  const int bits = spec.type.bits;
  if (bits < kMinBits || bits > kMaxBits) {
    return absl::InvalidArgumentError(
        absl::StrCat("a quantized type of ", bits, " bits is not supported; use ", kMinBits, " to ", kMaxBits));
  }
  const bool tensorrt = spec.preset == QuantPreset::kTensorrt;
  const bool narrow = spec.narrow_range.value_or(tensorrt && spec.type.is_signed);
  QuantRules rules;
  rules.symmetric = spec.scheme == QuantScheme::kSymmetric;
  rules.qmin = spec.type.is_signed ? -(int64_t{1} << (bits - 1)) : 0;
  rules.qmax = rules.qmin + (int64_t{1} << bits) - 1;
  if (narrow) ++rules.qmin;

  if (tensorrt) {
    if (!rules.symmetric) {
      return absl::InvalidArgumentError(
          "preset tensorrt has no affine scheme; ask for the symmetric scheme, or for preset pytorch");
    }
    if (narrow && !spec.type.is_signed) {
      return absl::InvalidArgumentError(absl::StrCat(
          "preset tensorrt puts zero at code 0 of ", spec.type.Name(),
          ", which a narrow range leaves out; ask for the full range, for a signed type, or for preset pytorch"));
    }
    rules.divisor = QuantRules::SymmetricDivisor::kQmax;
    rules.zero_amplitude = std::ldexp(1.0f, -24);
    return rules;
  }
  rules.divisor = QuantRules::SymmetricDivisor::kHalfCodes;
  rules.symmetric_zero_point = spec.type.is_signed ? 0 : (rules.qmin + rules.qmax + 1) / 2;
  rules.scale_floor = std::numeric_limits<float>::epsilon();
  return rules;
}

QParams ParamsForRange(const QuantRules& rules, const ClipRange& range) {
  const double least = std::min(range.min, 0.0), greatest = std::max(range.max, 0.0);
  QParams params;
  if (rules.symmetric) {
    const double amplitude = std::max(-least, greatest);
    const float float_amplitude = ToFloat(amplitude);
    params.zero_point = rules.symmetric_zero_point;
    params.scale = float_amplitude <= rules.zero_amplitude
                       ? 1.0f
                       : DivideWidth(amplitude, float_amplitude, rules.symmetric_divisor());
    params.scale = std::max(params.scale, rules.scale_floor);
    return params;
  }
  const float float_least = ToFloat(least);
  params.scale =
      DivideWidth(greatest - least, ToFloat(greatest) - float_least, static_cast<double>(rules.qmax - rules.qmin));
  params.scale = std::max(params.scale, rules.scale_floor);
  const float steps =
      std::isfinite(float_least) ? float_least / params.scale : static_cast<float>(least / params.scale);
  params.zero_point = std::clamp(rules.qmin - static_cast<int64_t>(RoundHalfEven(steps)), rules.qmin, rules.qmax);
  return params;
}

ClipRange RangeForParams(const QuantRules& rules, double scale, int64_t zero_point) {
  if (rules.symmetric) {
    const double amplitude = scale * rules.symmetric_divisor();
    return {-amplitude, amplitude};
  }
  return {scale * static_cast<double>(rules.qmin - zero_point), scale * static_cast<double>(rules.qmax - zero_point)};
}

}  // namespace calib
