#ifndef CALIB_QUANT_REFERENCE_HISTOGRAM_H_
#define CALIB_QUANT_REFERENCE_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/range.h"
#include "quant/reference_grid.h"

namespace calib {

// A framework's own histogram, reproduced step by step. It depends on the order and the boundaries of the steps: there
// is no merging. One step is one tensor, as the framework's observer is called once. Sources: MegEngine 1.13
// quantization/observer.py, PyTorch 1.13 ao/quantization/observer.py, torchao pt2e/observer.py, Apache MXNet 1.9
// contrib/quantization.py.
//
// A step is fed in two moves, so that whoever has the tensor can do the counting: NextGrid tells the grid that the rule
// makes of the state and the step's range, CountOnGrid counts the tensor's values on it, Fold takes the counts in.
//
// Where a reference fails, this is defined:
// - Non-finite values are in no bin and extend nothing. (The references fail or let them poison the state.)
// - All values so far equal, then others: their counts go into the one bin of the new histogram that holds them, and
//   the grid is the exact union (megengine), or the initial number of bins from -t to t (mxnet, all zero). pytorch
//   forgets them, as it does; pytorch_current weighs them with their own number, as since PyTorch issue 156414.
// - pytorch beyond 2^63, where int() overflows: the same cut, without overflow.
// - Widths that over- or underflow float32 are computed in double; extremes are kept at the greatest float32.
// A step that doesn't widen a histogram is never refused for max_bins.
//
// Not thread-safe.
class ReferenceHistogram {
 public:
  // REQUIRES: CheckReferenceOptions(options).ok().
  explicit ReferenceHistogram(const ReferenceOptions& options);
  // The state that `low`, ... say, as read back from a store or the wire. INVALID_ARGUMENT if no rule makes such one.
  static absl::StatusOr<ReferenceHistogram> Restore(const ReferenceOptions& options, const ReferenceGrid& grid,
                                                    const Range& range, uint64_t steps, std::vector<double> counts);

  const ReferenceOptions& options() const { return options_; }
  // Steps folded that had a finite value.
  uint64_t steps() const { return steps_; }
  bool empty() const { return steps_ == 0; }
  // Where the framework takes the counts to lie, and searches them: range().min to range().max, equal while all values
  // were; mxnet: -t to t. (pytorch counts on another grid: values are not where it takes them to lie.) Of an empty one:
  // all zero.
  const ReferenceGrid& grid() const { return grid_; }
  // The extremes that the framework itself keeps (min_val and max_val), which can lie beyond the data's; mxnet: the
  // data's. And the counts of all values.
  const Range& range() const { return range_; }
  // One a bin; whole numbers until a rule splits bins. As the framework rounds them: through float32 where it stores
  // float32. pytorch's resampling can leave counts a little below zero.
  absl::Span<const double> counts() const { return counts_; }

  // The grid of the next step, whose finite values have these extremes. A grid of 0 bins: the step has no finite value
  // and nothing to count. RESOURCE_EXHAUSTED when the histogram would grow beyond max_bins, naming the numbers.
  // INVALID_ARGUMENT when extremes of finite values are not finite or cross.
  absl::StatusOr<ReferenceGrid> NextGrid(const Range& step) const;
  // Takes in a step counted on NextGrid(step). Errors as NextGrid; INVALID_ARGUMENT when `grid` is not the one that
  // NextGrid tells, when the number of counts is not the grid's, or when they add up to more than step.count;
  // OUT_OF_RANGE when the number of values would overflow. Nothing changes then.
  absl::Status Fold(const Range& step, const ReferenceGrid& grid, absl::Span<const uint64_t> counts);

  // Bytes of memory that this takes, itself included.
  size_t MemoryBytes() const;

  friend bool operator==(const ReferenceHistogram&, const ReferenceHistogram&) = default;

 private:
  ReferenceOptions options_;  // as asked for: 0 stands for a default
  ReferenceGrid grid_;
  Range range_;
  uint64_t steps_ = 0;
  std::vector<double> counts_;
};

}  // namespace calib

#endif  // CALIB_QUANT_REFERENCE_HISTOGRAM_H_
