#ifndef CALIB_TESTS_BENCH_DIRECT_ENTROPY_H_
#define CALIB_TESTS_BENCH_DIRECT_ENTROPY_H_

#include "quant/searches.h"

namespace calib::bench {

// What MxnetEntropy is timed beside: the same search as Apache MXNet's calibrate_entropy does it, every candidate bin
// by bin in float32, on one thread (MXNet: one candidate a thread). O(bins^2). The counts must be whole.
// REQUIRES: an odd number of bins, at least quantized_bins; quantized_bins is odd.
EntropyResult DirectEntropy(const EqualWidthHistogram& histogram, int quantized_bins);

}  // namespace calib::bench

#endif  // CALIB_TESTS_BENCH_DIRECT_ENTROPY_H_
