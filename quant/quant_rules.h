#ifndef CALIB_QUANT_QUANT_RULES_H_
#define CALIB_QUANT_QUANT_RULES_H_

#include <cstdint>

#include "quant/quant_type.h"

namespace calib {

// How a range becomes scale and zero point: a QuantSpec with its preset's conventions spelled out. lo and hi are the
// range's ends, widened to include zero.
struct QuantRules {
  // What a symmetric range's greatest magnitude is divided by to give the scale.
  enum class SymmetricDivisor : uint8_t {
    kHalfCodes,  // (qmax - qmin) / 2: 127.5 for int8
    kQmax,       // qmax - zero point: 127 for int8
  };
  // What divisions and the zero point are computed in.
  enum class Arithmetic : uint8_t {
    kFloat32,       // throughout; the zero point from the float32 scale
    kFloat32Width,  // hi - lo in float32, the rest in double; the zero point from the scale before it is float32
    kFloat64,       // throughout; as above
  };
  // The affine zero point, from the scale s.
  enum class ZeroPointFormula : uint8_t {
    kEvenClamped,       // qmin - round half to even(lo / s), clamped to codes
    kAway,              // qmin - round half away(lo / s), not clamped
    kEvenOfDifference,  // round half to even(qmin - lo / s), not clamped
    kAwayClamped,       // qmin + round half away(-lo / s), clamped to codes
  };

  CodeKind kind = CodeKind::kInteger;  // never kAuto8
  int64_t qmin = -128;                 // of FP8 the least and greatest number
  int64_t qmax = 127;
  bool symmetric = true;
  int64_t symmetric_zero_point = 0;
  SymmetricDivisor divisor = SymmetricDivisor::kHalfCodes;
  Arithmetic arithmetic = Arithmetic::kFloat32;
  ZeroPointFormula zero_point_formula = ZeroPointFormula::kEvenClamped;
  float scale_floor = 0;            // no scale is smaller
  float zero_amplitude = -1;        // a symmetric range's greatest magnitude up to this gives scale 1; negative: never
  float least_scale = 0;            // a smaller scale becomes 1, and the zero point 0
  double least_width = 0;           // hi is at least lo plus this
  bool power_of_two_scale = false;  // the scale is rounded up to a power of two, the zero point follows from that

  // The number that a symmetric range's greatest magnitude is divided by.
  double symmetric_divisor() const;

  friend bool operator==(const QuantRules&, const QuantRules&) = default;
};

// The same rules for a scale that was searched for: what keeps ranges without width from scale zero, and the rules'
// other lower limits, would undo the search. The scale may be as small as float32's least normal number.
QuantRules WithoutFloors(QuantRules rules);

// A range of real values to be represented. min <= 0 <= max.
struct ClipRange {
  double min = 0;
  double max = 0;

  friend bool operator==(const ClipRange&, const ClipRange&) = default;
};

// x is about scale * (q - zero_point).
struct QParams {
  float scale = 0;
  int64_t zero_point = 0;

  friend bool operator==(const QParams&, const QParams&) = default;
};

// Scale and zero point of a range, computed as the preset's framework does. A range that does not include zero is
// widened to it. Where float32 would overflow to infinity (a width or an end beyond FLT_MAX) the division is done in
// double instead; the scale is always finite, at most FLT_MAX (2^127 as a power of two), and > 0 for ResolveSpec's
// rules. Zero points are codes but for the formulas that do not clamp: with those they may be one beyond, when the
// codes are more than the precision of `arithmetic` tells apart (24 bits of float32).
QParams ParamsForRange(const QuantRules& rules, const ClipRange& range);

// The range that ParamsForRange turns into this scale, but for the last bits (exactly, if it is a power of two), and
// exactly this zero point while codes have at most 16 bits.
// REQUIRES: scale is finite, at least LeastScale(rules); zero_point == symmetric_zero_point when symmetric, else
// qmin <= zero_point <= qmax.
ClipRange RangeForParams(const QuantRules& rules, double scale, int64_t zero_point);

// The least scale that the rules leave as it is: they change smaller ones, or float32 rounds them more than others.
double LeastScale(const QuantRules& rules);

}  // namespace calib

#endif  // CALIB_QUANT_QUANT_RULES_H_
