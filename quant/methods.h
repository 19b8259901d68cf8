#ifndef CALIB_QUANT_METHODS_H_
#define CALIB_QUANT_METHODS_H_

#include "quant/bin_model.h"
#include "quant/method_spec.h"
#include "quant/quant_spec.h"
#include "quant/range.h"
#include "quant/reference_histogram.h"

namespace calib {

// Every method returns a range that includes zero. REQUIRES everywhere: at least one finite value.

// [min(min, 0), max(max, 0)].
ClipRange MinMaxRange(const Range& range);

// Symmetric: +- the p-th percentile of |x|. Affine: the ((100 - p) / 2)-th to the (100 - (100 - p) / 2)-th percentile
// of x; one-sided: the least value to the p-th percentile of x. Percentiles interpolate linearly between order
// statistics like numpy.percentile; an order statistic inside a bin is the bin's middle, so it is within 2^-8 relative
// of the true one (2^-(m + 1) at m mantissa bits), and exact for lossless histograms, min and max.
ClipRange PercentileRange(const BinModel& model, bool symmetric, double percentile, bool one_sided = false);

// Drops the outermost bin that holds fewer values, of equal ones that farther from zero, of these the upper, while at
// least the share `coverage` of all values is kept; the range that is left. Once all bins are on one side of zero only
// the far end is dropped, since the range includes zero. At least one bin is left. Empty bins do not count; zero is a
// bin of its own.
ClipRange CoverageRange(const BinModel& model, double coverage);

// The same on equal-width bins by MegEngine's histogram_bins rule, quirks included: the lighter end bin, of equal ones
// the upper, is dropped while the share kept is more than `coverage`, so that in the end it is not, also on zero's side
// of one-sided data; and each end of the range is the lower edge of its bin, so that the last bin left is outside.
// Widened to include zero. REQUIRES: low < high, some count > 0.
ClipRange CoverageRange(const EqualWidthHistogram& histogram, double coverage);
// Whichever of the two fits: bins of the reference histogram that have a width, else the model.
ClipRange CoverageRange(const BinModel& model, const ReferenceHistogram* reference, double coverage);

// The range whose parameters under `rules` have the least expected sum of |x - quantized x|^norm. Symmetric: search
// over the scale; affine: over scale and zero point; power-of-two scales: over the powers of two. When several have it,
// up to what rounding the scale to float32 makes: of the ranges that hold all values the narrowest, else the widest.
// O(candidates x min(levels, bins)), O(candidates x bins) for other norms than 2; deterministic. norm in [1, 8].
ClipRange MseRange(const BinModel& model, const QuantRules& rules, double norm = 2);

// The distribution that a reference histogram's counts describe: uniform inside each bin, as the frameworks take it.
// Counts below zero (pytorch's resampling leaves such) are none. REQUIRES: at least one finite value.
BinModel ModelOf(const ReferenceHistogram& reference);

// The range with the least Kullback-Leibler divergence (searches.h): symmetric, or from zero for unsigned codes and
// data without a negative value. On a reference histogram of rule mxnet it is MXNet's own, on any other statistic an
// equal-width view of 8001 (tensorrt: 2048) bins is made first. Too few bins for so many codes, or (except on MXNet's
// own histogram) no range with a divergence: the full range.
// REQUIRES: an integer type.
// negative: whether some value is, which bins about zero do not tell.
ClipRange EntropyRange(const BinModel& model, const ReferenceHistogram* reference, EntropyVariant variant,
                       const QuantType& type, bool negative);

// MegEngine's (rule or preset megengine) or PyTorch's greedy search on the reference histogram, or, without one, on
// 2048 equal bins from min to max. REQUIRES: an integer type.
ClipRange L2GreedyRange(const BinModel& model, const ReferenceHistogram* reference, const QuantSpec& spec,
                        const QuantRules& rules);

}  // namespace calib

#endif  // CALIB_QUANT_METHODS_H_
