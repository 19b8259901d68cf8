#ifndef CALIB_QUANT_SEARCHES_MXNET_FLOAT_H_
#define CALIB_QUANT_SEARCHES_MXNET_FLOAT_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"

namespace calib {

// The divergence of one candidate of MXNet's entropy calibration as MXNet 1.9 computes it: float32, bin by bin, with
// its rounding, which moves a divergence by up to 1e-4 and so decides between candidates that are nearly equal.
// O(bins), no allocation after construction. Not thread-safe. Private to quant/searches.
class MxnetFloatDivergence {
 public:
  // `below`: [i] is the sum of the counts of all bins before i, whole numbers; one more than there are bins. Borrowed.
  // REQUIRES: an odd number of bins, at least quantized_bins.
  MxnetFloatDivergence(absl::Span<const double> below, size_t quantized_bins);

  // Of the candidate with this many bins on each side of the middle. +infinity: it has none.
  float operator()(size_t half);

 private:
  void MakeDistributions(size_t start, size_t stop);

  absl::Span<const double> below_;
  size_t groups_;
  std::vector<float> p_, q_;
};

}  // namespace calib

#endif  // CALIB_QUANT_SEARCHES_MXNET_FLOAT_H_
