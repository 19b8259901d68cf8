#include "quant/range.h"

#include <bit>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

// Integers in the order of the floats that they spell.
int32_t Ordered(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

}  // namespace

bool LessByBits(float a, float b) { return Ordered(a) < Ordered(b); }

absl::Status Range::CheckMerge(const Range& other) const {
  if (other.values() > std::numeric_limits<uint64_t>::max() - values()) {
    return absl::OutOfRangeError(absl::StrCat("adding ", other.values(), " values to the ", values(),
                                              " counted already passes 2^64 - 1; start another session"));
  }
  return absl::OkStatus();
}

void Range::Merge(const Range& other) {
  if (LessByBits(other.min, min)) min = other.min;
  if (LessByBits(max, other.max)) max = other.max;
  count += other.count;
  nan += other.nan;
  positive_infinity += other.positive_infinity;
  negative_infinity += other.negative_infinity;
}

}  // namespace calib
