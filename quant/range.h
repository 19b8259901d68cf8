#ifndef CALIB_QUANT_RANGE_H_
#define CALIB_QUANT_RANGE_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"

namespace calib {

// Exact extremes and counts of a set of values. NaN and infinities are counted apart and are part of nothing else.
//
// Merging is associative and commutative; Range{} is its identity. Not thread-safe.
struct Range {
  float min = std::numeric_limits<float>::infinity();   // least finite value, never -0; +inf when count is 0
  float max = -std::numeric_limits<float>::infinity();  // greatest finite value, never -0; -inf when count is 0
  uint64_t count = 0;                                   // finite values
  uint64_t nan = 0;
  uint64_t positive_infinity = 0;
  uint64_t negative_infinity = 0;

  bool empty() const { return count == 0; }
  uint64_t infinities() const { return positive_infinity + negative_infinity; }
  // All values, finite or not.
  uint64_t values() const { return count + nan + infinities(); }

  // OUT_OF_RANGE if values() of the merged range would pass 2^64 - 1.
  absl::Status CheckMerge(const Range& other) const;
  // Adds `other`. REQUIRES: CheckMerge(other).ok().
  void Merge(const Range& other);

  friend bool operator==(const Range&, const Range&) = default;
};

// Whether a < b, told by their bits, with -0 below +0: floating point comparisons take subnormals for zero in threads
// that denormals-are-zero mode is set in, as deep learning frameworks can. REQUIRES: neither is NaN.
bool LessByBits(float a, float b);

}  // namespace calib

#endif  // CALIB_QUANT_RANGE_H_
