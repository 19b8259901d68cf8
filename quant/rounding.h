#ifndef CALIB_QUANT_ROUNDING_H_
#define CALIB_QUANT_ROUNDING_H_

#include <cmath>

namespace calib {

// Round half to even or away from zero, whatever the rounding mode of the thread is.
template <typename Real>
Real RoundHalfEven(Real x) {
  const Real below = std::floor(x);
  const Real rest = x - below;
  if (rest < Real{0.5}) return below;
  if (rest > Real{0.5}) return below + 1;
  return std::fmod(below, Real{2}) == 0 ? below : below + 1;
}

template <typename Real>
Real RoundHalfAway(Real x) {
  return std::round(x);
}

}  // namespace calib

#endif  // CALIB_QUANT_ROUNDING_H_
