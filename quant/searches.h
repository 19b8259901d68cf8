#ifndef CALIB_QUANT_SEARCHES_H_
#define CALIB_QUANT_SEARCHES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/bin_model.h"
#include "quant/quant_spec.h"

namespace calib {

// The counts of equal-width bins from low to high that a BinModel describes: its density spread over them, point masses
// in the bin that holds them (the last bin is closed), what lies outside in the outermost bins. `counts` decides how
// many. Not whole numbers. REQUIRES: low < high, counts is not empty.
void FillEqualWidth(const BinModel& model, double low, double high, absl::Span<double> counts);

// Whose arithmetic a greedy search has: float32 or double, and where a sum is rounded.
enum class GreedyArithmetic : uint8_t { kMegengine, kPytorch };

// The greedy search of MegEngine's and PyTorch's HistogramObserver._non_linear_param_search, step by step: from the
// full range it drops bins from the end that holds more of them until the next quantile, as long as the error falls.
// `levels` is 2^bits (PyTorch) or qmax - qmin + 1 (MegEngine), at least 1. Same quantiles (cumulated counts are float32
// as theirs), candidates and stop; errors are in double, as MegEngine's, so that PyTorch, whose errors are float32, may
// stop elsewhere where two errors are equal to 1e-6. histogram.low == histogram.high: that point. The range found is
// widened to include zero. REQUIRES: low <= high, both finite; at least one count. O(bins + candidates x min(levels,
// bins)); one allocation.
ClipRange L2GreedyRange(const EqualWidthHistogram& histogram, int64_t levels,
                        GreedyArithmetic arithmetic = GreedyArithmetic::kMegengine);

// What an entropy search found.
struct EntropyResult {
  double threshold = 0;   // the range is [-threshold, threshold], or [0, threshold]
  double divergence = 0;  // Kullback-Leibler, natural logarithm; +infinity when no candidate has one
};

// Apache MXNet's calibrate_entropy (1.9, src/operator/quantization/calibrate.cc) on a histogram with an odd number of
// bins that is symmetric around zero. The threshold, the right edge of the best candidate's last bin, is MXNet's own:
// its float32 rounding decides between candidates that are nearly equal (of more than 64 such the best 64 take part),
// and of equal ones the smallest is taken. The divergence is the one in double of that candidate; MXNet's differs by up
// to 1e-4. quantized_bins: 255, or 511 for data without negative values in unsigned codes. Counts that are not whole
// are rounded so that their running sums are; MXNet knows no others. When no candidate has a divergence (nothing is
// counted, or ten thousand times more bins are empty than not): the smallest threshold, as MXNet, and +infinity.
// INVALID_ARGUMENT: an even number of bins, fewer than quantized_bins, or quantized_bins below 3; a negative count.
// Takes about 1 / 100 of the time of computing each candidate bin by bin at 8001 bins; no allocation for a candidate.
absl::StatusOr<EntropyResult> MxnetEntropy(const EqualWidthHistogram& histogram, int quantized_bins);

// NVIDIA pytorch-quantization's (calib/histogram.py, _compute_amax_entropy with its stride 1 and start_bin 128) on a
// histogram of magnitudes from zero, whose first count is taken to be the second's; of candidates equal to 1e-11 the
// largest. levels: 128 for int8, 256 for uint8; a power of two. No candidate has a divergence: the largest. O(bins x
// levels). INVALID_ARGUMENT: histogram.low is not 0, levels is no power of two, fewer bins than levels or than 128; a
// negative count.
absl::StatusOr<EntropyResult> TensorrtEntropy(const EqualWidthHistogram& histogram, int levels);

}  // namespace calib

#endif  // CALIB_QUANT_SEARCHES_H_
