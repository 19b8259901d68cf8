#ifndef CALIB_QUANT_EMA_RANGE_H_
#define CALIB_QUANT_EMA_RANGE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "quant/range.h"

namespace calib {

// Whose moving average.
enum class EmaConvention : uint8_t {
  // v = v m + (1 - m) x, 1 - m in float32 too: the weight m is the old value's. MegEngine 1.13
  // ExponentialMovingAverageObserver; its Sync variant, when a step is what all ranks saw.
  kMegengine,
  // v = v + c (x - v): the weight c is the new value's. PyTorch 1.13 MovingAverageMinMaxObserver, and channel by
  // channel MovingAveragePerChannelMinMaxObserver.
  kPytorch,
};

struct EmaOptions {
  EmaConvention convention = EmaConvention::kMegengine;
  // As the convention takes it: of the old value, in [0, 1) (MegEngine's default 0.9), or of the new one, in (0, 1]
  // (PyTorch's default 0.01).
  double weight = 0.9;

  friend bool operator==(const EmaOptions&, const EmaOptions&) = default;
};

// INVALID_ARGUMENT when the weight, in float32, is outside its convention's interval or not a number.
absl::Status CheckEmaOptions(const EmaOptions& options);

// Moving average of the extremes of steps: the first step's are taken as they are, later ones are averaged in, in
// float32, operation by operation as the framework does and without fused multiply-add. It depends on the order of the
// steps: there is no merging. Steps without finite values change nothing. Where the frameworks fail: an average is
// finite even where float32 can't hold x - v, and min <= max even where rounding swapped them. Not thread-safe.
struct EmaRange {
  float min = 0;  // averaged; 0 before the first step
  float max = 0;
  uint64_t steps = 0;  // with a finite value

  // REQUIRES: CheckEmaOptions(options).ok().
  void Fold(const EmaOptions& options, const Range& step);

  friend bool operator==(const EmaRange&, const EmaRange&) = default;
};

}  // namespace calib

#endif  // CALIB_QUANT_EMA_RANGE_H_
