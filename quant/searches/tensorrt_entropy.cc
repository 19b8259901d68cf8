// NVIDIA pytorch-quantization's entropy calibration with O(levels) for a candidate.
//
// A candidate is the first n bins. P is their counts, with all beyond added to the last one. Q has one value for a
// group of n / levels bins: the mean of the group's counts that are not zero, where they are not zero. With N = sum P
// and S = sum Q,
//   N D = sum P ln P - sum P ln Q + N ln(S / N),
// whose first sum is a running one but for the last bin, and the second one is a logarithm a group.

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/searches.h"
#include "quant/searches/entropy_terms.h"

namespace calib {
namespace {

constexpr size_t kStartBin = 128;

class TensorrtSearch {
 public:
  TensorrtSearch(absl::Span<const double> counts, size_t levels) : levels_(levels) {
    sums_.resize(counts.size() + 1);
    for (size_t i = 0; i < counts.size(); ++i) {
      const double count = counts[i == 0 ? 1 : i];
      sums_[i + 1] = {sums_[i].mass + count, sums_[i].filled + (count > 0 ? 1 : 0), sums_[i].x_log_x + XLogX(count)};
    }
  }

  double Divergence(size_t size) const {
    const double total = sums_.back().mass, inside = sums_[size].mass, tail = total - inside;
    const double last = inside - sums_[size - 1].mass;
    if (inside <= 0 || (last <= 0 && tail > 0)) return kNoDivergence;
    double q_sum = 0;
    size_t begin = 0;
    for (size_t group = 1; group <= levels_; ++group) {
      const size_t end = (group * size + levels_ - 1) / levels_;
      double mass = sums_[end].mass - sums_[begin].mass;
      const double filled = sums_[end].filled - sums_[begin].filled;
      begin = end;
      if (filled == 0) continue;
      const double logarithm = std::log(mass / filled);
      if (end == size) mass += tail;
      q_sum += mass * logarithm;
    }
    const double p_sum = sums_[size - 1].x_log_x + XLogX(last + tail);
    return std::max((p_sum - q_sum) / total + std::log(inside / total), 0.0);
  }

 private:
  // Over the bins before one.
  struct Sums {
    double mass = 0;
    double filled = 0;  // how many are not zero
    double x_log_x = 0;
  };

  size_t levels_;
  std::vector<Sums> sums_;
};

}  // namespace

absl::StatusOr<EntropyResult> TensorrtEntropy(const EqualWidthHistogram& histogram, int levels) {
  const size_t bins = histogram.counts.size();
  if (histogram.low != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the histogram begins at ", histogram.low, ", not at zero"));
  }
  if (levels < 2 || !std::has_single_bit(static_cast<unsigned>(levels))) {
    return absl::InvalidArgumentError(absl::StrCat(levels, " levels; there must be a power of two"));
  }
  const size_t least = std::max(kStartBin, static_cast<size_t>(levels));
  if (bins < least) {
    return absl::InvalidArgumentError(absl::StrCat(bins, " bins; there must be at least ", least));
  }
  if (std::any_of(histogram.counts.begin(), histogram.counts.end(), [](double count) { return !(count >= 0); })) {
    return absl::InvalidArgumentError("a count is negative or not a number");
  }
  const TensorrtSearch search(histogram.counts, static_cast<size_t>(levels));
  double best = kNoDivergence;
  size_t best_size = bins;
  for (size_t size = kStartBin; size <= bins; ++size) {
    const double divergence = search.Divergence(size);
    if (divergence > best + kEntropyTie || divergence == kNoDivergence) continue;
    best = std::min(best, divergence);
    best_size = size;
  }
  const double width = histogram.high / static_cast<double>(bins);
  return EntropyResult{best_size == bins ? histogram.high : static_cast<double>(best_size) * width, best};
}

}  // namespace calib
