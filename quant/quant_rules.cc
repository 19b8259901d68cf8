#include "quant/quant_rules.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/rounding.h"

namespace calib {
namespace {

constexpr double kGreatestFloat = std::numeric_limits<float>::max();
constexpr float kLeastNormal = std::numeric_limits<float>::min();

float ToFloat(double x) {
  if (std::abs(x) > kGreatestFloat) return std::copysign(std::numeric_limits<float>::infinity(), x > 0 ? 1.0f : -1.0f);
  return static_cast<float>(x);
}

float ToFiniteFloat(double x) { return static_cast<float>(std::min(x, kGreatestFloat)); }

// width / divisor. `float_width` is the width in float32, infinite where that can't hold it.
double Divide(QuantRules::Arithmetic arithmetic, double width, float float_width, double divisor) {
  if (arithmetic == QuantRules::Arithmetic::kFloat64 || !std::isfinite(float_width)) return width / divisor;
  if (arithmetic == QuantRules::Arithmetic::kFloat32Width) return static_cast<double>(float_width) / divisor;
  return float_width / static_cast<float>(divisor);
}

// The least power of two that is not below the scale; 2^127 at most.
double RoundUpToPowerOfTwo(double scale) {
  int exponent = 0;
  const double fraction = std::frexp(scale, &exponent);  // in [1/2, 1)
  return std::ldexp(1.0, std::min(fraction == 0.5 ? exponent - 1 : exponent, 127));
}

// What is done to every scale after the division.
double Finish(const QuantRules& rules, double scale) {
  if (rules.arithmetic == QuantRules::Arithmetic::kFloat32) scale = ToFiniteFloat(scale);
  scale = std::max<double>(scale, rules.scale_floor);
  return rules.power_of_two_scale ? RoundUpToPowerOfTwo(scale) : scale;
}

template <typename Real>
int64_t ZeroPoint(const QuantRules& rules, Real steps) {  // steps: lo / s
  const Real qmin = static_cast<Real>(rules.qmin);
  switch (rules.zero_point_formula) {
    case QuantRules::ZeroPointFormula::kEvenClamped:
      return std::clamp(rules.qmin - static_cast<int64_t>(RoundHalfEven(steps)), rules.qmin, rules.qmax);
    case QuantRules::ZeroPointFormula::kAway:
      return rules.qmin - static_cast<int64_t>(RoundHalfAway(steps));
    case QuantRules::ZeroPointFormula::kEvenOfDifference:
      return static_cast<int64_t>(RoundHalfEven(qmin - steps));
    case QuantRules::ZeroPointFormula::kAwayClamped:
      break;
  }
  return std::clamp(rules.qmin + static_cast<int64_t>(RoundHalfAway(-steps)), rules.qmin, rules.qmax);
}

QParams SymmetricParams(const QuantRules& rules, double amplitude) {
  const float float_amplitude = ToFloat(amplitude);
  if (float_amplitude <= rules.zero_amplitude) return {1, rules.symmetric_zero_point};
  const double scale = Divide(rules.arithmetic, amplitude, float_amplitude, rules.symmetric_divisor());
  if (scale < rules.least_scale) return {1, 0};
  return {ToFiniteFloat(Finish(rules, scale)), rules.symmetric_zero_point};
}

}  // namespace

double QuantRules::symmetric_divisor() const {
  return divisor == SymmetricDivisor::kHalfCodes ? static_cast<double>(qmax - qmin) / 2
                                                 : static_cast<double>(qmax - symmetric_zero_point);
}

QuantRules WithoutFloors(QuantRules rules) {
  rules.scale_floor = kLeastNormal;
  rules.least_width = 0;
  return rules;
}

QParams ParamsForRange(const QuantRules& rules, const ClipRange& range) {
  const double least = std::min(range.min, 0.0);
  const double greatest = std::max({range.max, 0.0, least + rules.least_width});
  if (rules.symmetric) return SymmetricParams(rules, std::max(-least, greatest));
  const float float_least = ToFloat(least);
  const double divided = Divide(rules.arithmetic, greatest - least, ToFloat(greatest) - float_least,
                                static_cast<double>(rules.qmax - rules.qmin));
  if (divided < rules.least_scale) return {1, 0};
  const double scale = Finish(rules, divided);
  const float float_scale = ToFiniteFloat(scale);
  if (rules.arithmetic != QuantRules::Arithmetic::kFloat32) return {float_scale, ZeroPoint(rules, least / scale)};
  return {float_scale,
          ZeroPoint(rules, std::isfinite(float_least) ? float_least / float_scale : static_cast<float>(least / scale))};
}

ClipRange RangeForParams(const QuantRules& rules, double scale, int64_t zero_point) {
  if (rules.symmetric) {
    const double amplitude = scale * rules.symmetric_divisor();
    return {-amplitude, amplitude};
  }
  return {scale * static_cast<double>(rules.qmin - zero_point), scale * static_cast<double>(rules.qmax - zero_point)};
}

double LeastScale(const QuantRules& rules) {
  // A hair more, so that rounding does not fall back to a limit.
  constexpr double kMore = 1 + 0x1p-20;
  const double floors = std::max({rules.scale_floor, rules.least_scale, kLeastNormal});
  if (!rules.symmetric) {
    return std::max(floors, rules.least_width / static_cast<double>(rules.qmax - rules.qmin) * kMore);
  }
  const double least_amplitude = std::max<double>(rules.zero_amplitude, rules.least_width / 2);
  return std::max(floors, least_amplitude / rules.symmetric_divisor() * kMore);
}

}  // namespace calib
