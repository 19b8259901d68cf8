#ifndef CALIB_QUANT_SEARCHES_H_
#define CALIB_QUANT_SEARCHES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/bin_model.h"
#include "quant/quant_spec.h"

namespace calib {

// The counts of equal-width bins from low to high that a BinModel describes: its density spread over them, point masses
// in the bin that holds them (the last bin is closed), what lies outside in the outermost bins. `counts` decides how many.
void FillEqualWidth(const BinModel& model, double low, double high, absl::Span<double> counts);

// The greedy search of MegEngine's and PyTorch's _non_linear_param_search, step by step: from the full range it drops
// bins from the end that holds more of them until the next quantile, as long as the error falls. `levels` is 2^bits
// (PyTorch) or qmax - qmin + 1 (MegEngine). Cumulated counts are float32 as theirs.
ClipRange L2GreedyRange(const EqualWidthHistogram& histogram, int64_t levels);

// What an entropy search found.
struct EntropyResult {
  double threshold = 0;   // the range is [-threshold, threshold], or [0, threshold]
  double divergence = 0;  // Kullback-Leibler, natural logarithm; +infinity when no candidate has one
};

// Apache MXNet's calibrate_entropy (src/operator/quantization/calibrate.cc) on a histogram with an odd number of bins
// that is symmetric around zero, to float32 accuracy; of equal candidates the smallest. quantized_bins: 255, or 511 for
// data without negative values in unsigned codes. INVALID_ARGUMENT: an even number of bins, or fewer than
// quantized_bins.
absl::StatusOr<EntropyResult> MxnetEntropy(const EqualWidthHistogram& histogram, int quantized_bins);

// NVIDIA pytorch-quantization's (calib/histogram.py) on a histogram of magnitudes from zero; of equal candidates the
// largest. levels: 128 for int8, 256 for uint8. INVALID_ARGUMENT: histogram.low is not 0, or fewer bins than levels.
absl::StatusOr<EntropyResult> TensorrtEntropy(const EqualWidthHistogram& histogram, int levels);

}  // namespace calib

#endif  // CALIB_QUANT_SEARCHES_H_
