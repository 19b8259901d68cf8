// Apache MXNet's entropy calibration in far fewer steps than candidates x bins.
//
// A candidate is the middle n bins [start, stop). P is its counts, with what lies outside added to its first and last
// bin. Q has one value for a group of m = n / Q bins: the mean of the group's counts that are not zero; the first bin's
// own count is left out of it, as MXNet does. Both are smoothed, in counts: every zero becomes eps, and each other
// loses e = eps * zeros / others. With N = sum P and S = sum Q, and since both are eps where P is zero,
//   N D = sum (P - e) ln(P - e) - sum (P - f) ln(Q - f) + N ln(S / N)        over the bins with P > 0.
//
// First sum: ln(c - e) = ln c - e / c - e^2 / 2c^2 - ..., so running sums over all bins of ln c, c ln c and c^-t give
// it for any candidate. Second sum: the same per group, weighted with the group's mass M less e times its number k of
// bins; inside, M / q = k. Groups of m bins start anywhere, but a candidate's start m apart, so running sums for each
// remainder modulo m give a candidate's groups, and they are made anew only when m changes: each distinct group costs
// one logarithm. The first and the last group, with the tails, are done apart.
//
// The series need e and f to be small against 1, the least count. Where one isn't, zeros outnumber the other bins by
// eps / 64 at least, and going through those that are not zero is cheap.
//
// MXNet's own float32 sums are off by more than what often lies between the best candidates. So those that are nearly
// as good as the best are computed anew as MXNet does, and its choice among them is taken.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/searches.h"
#include "quant/searches/entropy_terms.h"
#include "quant/searches/mxnet_float.h"

namespace calib {
namespace {

constexpr double kEpsilon = 1e-4;
constexpr double kSmall = 1.0 / 64;  // e up to this by series: the error is (1/64)^6 / 6 of the mass
constexpr int kTerms = 5;
// How far MXNet's rounding moves a divergence: 5e-5 was seen, and part of it is in proportion. And how many candidates
// so near the best one are computed anew at most.
constexpr double kRounding = 3e-5, kRelativeRounding = 5e-4;
constexpr size_t kMostNear = 64;

// Sums over bins, of their counts, or over groups, of their means, each weighted with the number of bins.
struct Sums {
  double log = 0;             // of ln c
  double mass_log = 0;        // of c ln c
  double power[kTerms] = {};  // of c^-1, c^-2, ...

  void Add(double value, double mass, double bins) {
    const double logarithm = std::log(value), inverse = 1 / value;
    log += bins * logarithm;
    mass_log += mass * logarithm;
    double term = bins;
    for (double& sum : power) sum += term *= inverse;
  }
};

// The sum of (c - e) ln(c - f) over what lies between two running sums, with this number of bins. (Of a group: of
// (mass - e bins) ln(mean - f).)
double ShiftedLog(const Sums& end, const Sums& begin, double bins, double e, double f) {
  double result = end.mass_log - begin.mass_log - e * (end.log - begin.log);
  double lower = bins, factor = 1;  // sum of c^(1 - t), and f^t
  for (int t = 1; t <= kTerms; ++t) {
    const double upper = end.power[t - 1] - begin.power[t - 1];
    factor *= f;
    result -= factor / t * (lower - e * upper);
    lower = upper;
  }
  return result;
}

// The part of a candidate that the tails touch.
struct Edge {
  double count;  // P of the outermost bin
  double q;      // the group's Q, 0: none
  double mass;   // P of the group
  double bins;   // P > 0 in the group
  // Their part of sum (P - f) ln(Q - f), as the formula above has it, with e in P.
  double SecondSum(double e, double f) const {
    return bins == 0 ? 0 : (mass - e * bins) * std::log(q > 0 ? q - f : kEpsilon);
  }
  double smoothed() const { return q > 0 ? bins : 0; }
};

class MxnetSearch {
 public:
  MxnetSearch(absl::Span<const double> counts, int quantized_bins)
      : bins_(counts.size()), groups_(static_cast<size_t>(quantized_bins)), middle_(counts.size() / 2) {
    below_.resize(bins_ + 1);
    filled_.resize(bins_ + 1);
    sums_.resize(bins_ + 1);
    chains_.resize(bins_ + 1);
    double exact = 0;
    for (size_t i = 0; i < bins_; ++i) {
      exact += counts[i];
      below_[i + 1] = std::max(std::floor(exact + 0.5), below_[i]);
      const double count = below_[i + 1] - below_[i];
      filled_[i + 1] = filled_[i] + (count > 0 ? 1 : 0);
      sums_[i + 1] = sums_[i];
      if (count > 0) {
        sums_[i + 1].Add(count, count, 1);
        filled_bins_.push_back(i);
      }
    }
  }

  // Sums of the counts, made whole, of all bins before each.
  absl::Span<const double> below() const { return below_; }

  // Of the candidate with this many bins on each side of the middle. To be called with rising numbers.
  double Divergence(size_t half) {
    const size_t start = middle_ - half, stop = middle_ + half + 1, size = stop - start, width = size / groups_;
    if (width != width_) MakeChains(width);
    const Edge first = FirstEdge(start, start + width);
    const size_t last_begin = start + (groups_ - 1) * width;
    const Edge last = LastEdge(last_begin, stop);
    const double inner_bins = Filled(start + 1, stop - 1);
    const double p_filled = inner_bins + (first.count > 0 ? 1 : 0) + (last.count > 0 ? 1 : 0);
    const double group_bins = Filled(start + width, last_begin);
    const double q_filled = group_bins + first.smoothed() + last.smoothed();
    if (q_filled == 0) return kNoDivergence;
    const double bins = static_cast<double>(size);
    const double e = kEpsilon * (bins - p_filled) / p_filled, f = kEpsilon * (bins - q_filled) / q_filled;
    if (f >= 1) return kNoDivergence;

    const double total = below_.back();
    const double q_total = Mass(start + width, last_begin) + first.q * first.smoothed() + last.q * last.smoothed();
    double p_sum = 0, q_sum = first.SecondSum(e, f) + last.SecondSum(e, f);
    if (f <= kSmall) {
      p_sum = ShiftedLog(sums_[stop - 1], sums_[start + 1], inner_bins, e, e);
      q_sum += ShiftedLog(chains_[last_begin], chains_[start + width], group_bins, e, f);
    } else {
      const auto from = std::lower_bound(filled_bins_.begin(), filled_bins_.end(), start + 1);
      for (auto bin = from; bin != filled_bins_.end() && *bin < stop - 1; ++bin)
        p_sum += XLogX(Mass(*bin, *bin + 1) - e);
      for (auto bin = std::lower_bound(from, filled_bins_.end(), start + width);
           bin != filled_bins_.end() && *bin < last_begin;) {
        const size_t begin = start + (*bin - start) / width * width;
        const double mass = Mass(begin, begin + width), filled = Filled(begin, begin + width);
        q_sum += (mass - e * filled) * std::log(mass / filled - f);
        bin += static_cast<std::ptrdiff_t>(filled);
      }
    }
    if (first.count > 0) p_sum += XLogX(first.count - e);
    if (last.count > 0) p_sum += XLogX(last.count - e);
    return std::max((p_sum - q_sum) / total + std::log(q_total / total), 0.0);
  }

 private:
  double Mass(size_t begin, size_t end) const { return below_[end] - below_[begin]; }
  double Filled(size_t begin, size_t end) const { return filled_[end] - filled_[begin]; }

  Edge FirstEdge(size_t start, size_t end) const {
    const double count = below_[start + 1], mass = Mass(start + 1, end), filled = Filled(start + 1, end);
    return {count, filled > 0 ? mass / filled : 0, mass + count, filled + (count > 0 ? 1 : 0)};
  }

  Edge LastEdge(size_t begin, size_t stop) const {
    const double tail = below_.back() - below_[stop], own = Mass(stop - 1, stop);
    const double mass = Mass(begin, stop), filled = Filled(begin, stop);
    return {own + tail, filled > 0 ? mass / filled : 0, mass + tail, filled + (own == 0 && tail > 0 ? 1 : 0)};
  }

  // chains_[a]: over the groups of this width that end at a, a - width, a - 2 width, ...
  void MakeChains(size_t width) {
    width_ = width;
    // Candidates with this width reach no further from the middle; chains are only subtracted, so they may begin there.
    const size_t half = std::min(((width + 1) * groups_ - 1) / 2, middle_);
    const size_t begin = middle_ - half, end = middle_ + half + 1;
    std::fill_n(chains_.begin() + static_cast<std::ptrdiff_t>(begin), std::min(width, end - begin), Sums());
    for (size_t at = begin + width; at <= end; ++at) {
      chains_[at] = chains_[at - width];
      const double filled = Filled(at - width, at);
      if (filled == 0) continue;
      const double mass = Mass(at - width, at);
      chains_[at].Add(mass / filled, mass, filled);
    }
  }

  size_t bins_, groups_, middle_;
  size_t width_ = 0;            // of the groups in chains_
  std::vector<double> below_;   // [i]: counts of the bins before i
  std::vector<double> filled_;  // [i]: how many of them are not zero
  std::vector<Sums> sums_;      // [i]: over the bins before i
  std::vector<Sums> chains_;
  std::vector<size_t> filled_bins_;
};

// The index of the candidate that MXNet takes, whose first has `least` bins on each side of the middle.
size_t MxnetChoice(absl::Span<const double> divergences, MxnetFloatDivergence float_divergence, size_t least) {
  const double best = *std::min_element(divergences.begin(), divergences.end());
  if (best == kNoDivergence) return 0;
  const double limit = best + kRounding + kRelativeRounding * best;
  std::vector<size_t> near;
  for (size_t i = 0; i < divergences.size(); ++i) {
    if (divergences[i] <= limit) near.push_back(i);
  }
  if (near.size() > kMostNear) {
    // Equal ones, up to the error of the series, by their size.
    const auto rank = [&](size_t i) { return std::floor(divergences[i] / kEntropyTie); };
    std::stable_sort(near.begin(), near.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
    near.resize(kMostNear);
    std::sort(near.begin(), near.end());
  }
  size_t choice = near.front();
  float least_divergence = std::numeric_limits<float>::infinity();
  for (const size_t i : near) {
    const float divergence = float_divergence(least + i);
    if (divergence < least_divergence) {
      least_divergence = divergence;
      choice = i;
    }
  }
  return choice;
}

}  // namespace

absl::StatusOr<EntropyResult> MxnetEntropy(const EqualWidthHistogram& histogram, int quantized_bins) {
  const size_t bins = histogram.counts.size();
  if (quantized_bins < 3) {
    return absl::InvalidArgumentError(absl::StrCat(quantized_bins, " quantized bins; there must be at least 3"));
  }
  if (bins % 2 == 0 || bins < static_cast<size_t>(quantized_bins)) {
    return absl::InvalidArgumentError(
        absl::StrCat("MXNet's entropy needs an odd number of bins, at least ", quantized_bins, ", and not ", bins));
  }
  if (std::any_of(histogram.counts.begin(), histogram.counts.end(), [](double count) { return !(count >= 0); })) {
    return absl::InvalidArgumentError("a count is negative or not a number");
  }
  MxnetSearch search(histogram.counts, quantized_bins);
  const size_t groups = static_cast<size_t>(quantized_bins), middle = bins / 2, least = groups / 2;
  std::vector<double> divergences;
  divergences.reserve(middle - least + 1);
  for (size_t half = least; half <= middle; ++half) divergences.push_back(search.Divergence(half));
  const size_t best = MxnetChoice(divergences, MxnetFloatDivergence(search.below(), groups), least);
  const size_t best_half = least + best;
  // numpy.linspace of float32, whose last edge is the range's end.
  const size_t stop = middle + best_half + 1;
  const double width = (histogram.high - histogram.low) / static_cast<double>(bins);
  const double edge = stop == bins ? histogram.high : static_cast<double>(stop) * width + histogram.low;
  return EntropyResult{edge > std::numeric_limits<float>::max() ? edge : static_cast<double>(static_cast<float>(edge)),
                       divergences[best]};
}

}  // namespace calib
