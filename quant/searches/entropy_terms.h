#ifndef CALIB_QUANT_SEARCHES_ENTROPY_TERMS_H_
#define CALIB_QUANT_SEARCHES_ENTROPY_TERMS_H_

#include <cmath>
#include <limits>

// What the entropy searches share.
namespace calib {

// Divergences that differ by less are equal: the order of summation decides no tie.
inline constexpr double kEntropyTie = 1e-11;
inline constexpr double kNoDivergence = std::numeric_limits<double>::infinity();

// x ln x, continued with 0 at 0.
inline double XLogX(double x) { return x > 0 ? x * std::log(x) : 0; }

}  // namespace calib

#endif  // CALIB_QUANT_SEARCHES_ENTROPY_TERMS_H_
