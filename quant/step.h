#ifndef CALIB_QUANT_STEP_H_
#define CALIB_QUANT_STEP_H_

#include <cstdint>
#include <vector>

#include "quant/range.h"
#include "quant/reference_histogram.h"

namespace calib {

// What an observer that depends on order takes in at a time: one tensor, reduced.
struct Step {
  std::vector<Range> ranges;  // one a channel, or one in all
  // For a reference histogram: the counts of the finite values, and the grid that they were taken on. Without a finite
  // value: no bins.
  ReferenceGrid grid;
  std::vector<uint64_t> counts;
};

}  // namespace calib

#endif  // CALIB_QUANT_STEP_H_
