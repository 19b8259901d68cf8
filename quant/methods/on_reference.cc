#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/methods.h"
#include "quant/searches.h"

// The frameworks' searches, on their own histograms or on an equal-width view of the canonical one.
namespace calib {
namespace {

constexpr size_t kMxnetBins = 8001;
constexpr size_t kTensorrtBins = 2048;
constexpr size_t kGreedyBins = 2048;

EqualWidthHistogram HistogramOf(const ReferenceHistogram& reference) {
  return {reference.grid().low, reference.grid().high, reference.counts()};
}

bool HasWidth(const ReferenceHistogram& reference) { return reference.grid().low < reference.grid().high; }

// Values can all be outside the framework's bins.
bool HasCounts(const ReferenceHistogram& reference) {
  return std::any_of(reference.counts().begin(), reference.counts().end(), [](double count) { return count > 0; });
}

absl::StatusOr<EntropyResult> SearchMxnet(const BinModel& model, const ReferenceHistogram* reference, double amplitude,
                                          int quantized_bins) {
  if (reference != nullptr && reference->options().rule == ReferenceRule::kMxnet && HasWidth(*reference)) {
    return MxnetEntropy(HistogramOf(*reference), quantized_bins);
  }
  std::vector<double> counts(kMxnetBins);
  FillEqualWidth(model, -amplitude, amplitude, absl::MakeSpan(counts));
  return MxnetEntropy({-amplitude, amplitude, counts}, quantized_bins);
}

absl::StatusOr<EntropyResult> SearchTensorrt(const BinModel& model, double amplitude, int levels) {
  // Magnitudes: the two halves of a symmetric view, added.
  std::vector<double> both(2 * kTensorrtBins);
  FillEqualWidth(model, -amplitude, amplitude, absl::MakeSpan(both));
  std::vector<double> magnitudes(kTensorrtBins);
  for (size_t i = 0; i < kTensorrtBins; ++i) {
    magnitudes[i] = both[kTensorrtBins + i] + both[kTensorrtBins - 1 - i];
  }
  return TensorrtEntropy({0, amplitude, magnitudes}, levels);
}

}  // namespace

BinModel ModelOf(const ReferenceHistogram& reference) {
  if (HasWidth(reference) && HasCounts(reference)) return BinModel(HistogramOf(reference));
  // All values equal, or all outside the framework's bins: masses at the extremes.
  ChannelStatistics points;
  points.range = reference.range();
  points.histogram.emplace();
  points.histogram->AddKey(Bfloat16Key(points.range.min), 1);
  if (points.range.count > 1) points.histogram->AddKey(Bfloat16Key(points.range.max), points.range.count - 1);
  points.histogram->MarkLossy();
  return BinModel(points);
}

ClipRange CoverageRange(const BinModel& model, const ReferenceHistogram* reference, double coverage) {
  if (reference == nullptr || !HasWidth(*reference) || !HasCounts(*reference)) return CoverageRange(model, coverage);
  return CoverageRange(HistogramOf(*reference), coverage);
}

ClipRange EntropyRange(const BinModel& model, const ReferenceHistogram* reference, EntropyVariant variant,
                       const QuantType& type, bool negative) {
  const double amplitude = std::max(-model.min(), model.max());
  const bool from_zero = !negative && !type.is_signed;
  const ClipRange full = {from_zero ? 0 : 0 - amplitude, amplitude};
  constexpr int kMostBits = 12;  // more codes than the views have bins
  if (type.bits < 2 || type.bits > kMostBits || amplitude == 0) return full;
  const int codes = 1 << type.bits;
  // MXNet searches both signs at once: unsigned codes for one side take as many for the other, which is empty.
  const absl::StatusOr<EntropyResult> found =
      variant == EntropyVariant::kMxnet
          ? SearchMxnet(model, reference, amplitude, from_zero ? 2 * codes - 1 : codes - 1)
          : SearchTensorrt(model, amplitude, from_zero ? codes : codes / 2);
  if (!found.ok()) return full;
  // No candidate has a divergence: MXNet then takes the least threshold, which would cut a lone value.
  const bool as_mxnet = reference != nullptr && reference->options().rule == ReferenceRule::kMxnet;
  if (std::isinf(found->divergence) && !as_mxnet) return full;
  return {from_zero ? 0 : 0 - found->threshold, found->threshold};
}

ClipRange L2GreedyRange(const BinModel& model, const ReferenceHistogram* reference, const QuantSpec& spec,
                        const QuantRules& rules) {
  const bool megengine = reference != nullptr ? reference->options().rule == ReferenceRule::kMegengine
                                              : spec.preset == QuantPreset::kMegengine;
  const int64_t levels = megengine ? rules.qmax - rules.qmin + 1 : int64_t{1} << spec.type.bits;
  const GreedyArithmetic arithmetic = megengine ? GreedyArithmetic::kMegengine : GreedyArithmetic::kPytorch;
  if (reference != nullptr) return L2GreedyRange(HistogramOf(*reference), levels, arithmetic);
  if (model.min() == model.max()) return {std::min(model.min(), 0.0), std::max(model.max(), 0.0)};
  std::vector<double> counts(kGreedyBins);
  FillEqualWidth(model, model.min(), model.max(), absl::MakeSpan(counts));
  return L2GreedyRange({model.min(), model.max(), counts}, levels, arithmetic);
}

}  // namespace calib
