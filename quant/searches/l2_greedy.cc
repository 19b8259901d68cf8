#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/searches.h"

namespace calib {
namespace {

// The squared error of quantizing bins [first, last] to `levels` cells of equal width, each to its middle, as the
// references have it: mass is uniform inside a bin, and what lies outside goes to the outermost cells. In units of the
// bins' width.
//
// With G(b) the integral of (x - b) over all x > b: moving a value's code up by one step w, across the edge b of two
// cells, lowers its squared error by 2 w (x - b). So the error is that of the first cell's middle for all, less 2 w
// times the sum of G over all edges: one look-up a level instead of a sum over all bins.
class GreedyError {
 public:
  GreedyError(absl::Span<const double> counts, int64_t levels) : levels_(static_cast<double>(levels)) {
    knots_.resize(counts.size() + 1);
    // From the upper end, whose tail is what G is about.
    for (size_t i = counts.size(); i-- > 0;) {
      const Knot& above = knots_[i + 1];
      knots_[i] = {counts[i], above.mass + counts[i], above.excess + above.mass + counts[i] / 2};
      const double x = static_cast<double>(i);
      first_ += counts[i] * (x + 0.5);
      second_ += counts[i] * (x * x + x + 1.0 / 3);
    }
  }

  double operator()(size_t first, size_t last) const {
    const double begin = static_cast<double>(first), width = static_cast<double>(last - first + 1) / levels_;
    return levels_ > static_cast<double>(knots_.size()) ? ByBins(begin, width) : ByLevels(begin, width);
  }

 private:
  // What lies beyond a bin's begin.
  struct Knot {
    double count = 0;  // of the bin
    double mass = 0;
    double excess = 0;  // G(begin)
  };

  double ByLevels(double begin, double width) const {
    const size_t bins = knots_.size() - 1;
    double excess = 0;
    for (double i = 1; i < levels_; ++i) {
      const double edge = begin + i * width;
      const size_t bin = static_cast<size_t>(edge);
      if (bin >= bins) break;
      const double below = edge - static_cast<double>(bin);
      const Knot& knot = knots_[bin];
      excess += knot.excess - below * (knot.mass - 0.5 * below * knot.count);
    }
    const double middle = begin + width / 2;
    const double around_first = second_ - 2 * middle * first_ + middle * middle * knots_.front().mass;
    return around_first - 2 * width * excess;
  }

  // Bin by bin, for more levels than bins.
  double ByBins(double begin, double width) const {
    const auto cell_of = [&](double x) { return std::clamp(std::floor(x / width), 0.0, levels_ - 1); };
    const auto cube = [](double x) { return x * x * x; };
    double error = 0;
    for (size_t i = 0; i + 1 < knots_.size(); ++i) {
      const double from = static_cast<double>(i) - begin, to = from + 1;
      const double from_cell = cell_of(from), to_cell = cell_of(to);
      const double cubes = cube(width / 2) - cube(from - (from_cell + 0.5) * width) +
                           (to_cell - from_cell - 1) * 2 * cube(width / 2) + cube(to - (to_cell + 0.5) * width) +
                           cube(width / 2);
      error += knots_[i].count * cubes / 3;
    }
    return error;
  }

  double levels_;
  std::vector<Knot> knots_;
  double first_ = 0, second_ = 0;  // sums of x and x^2
};

// Running sums and their total, rounded as the framework rounds them.
std::vector<float> Cumulate(absl::Span<const double> counts, GreedyArithmetic arithmetic, double* total) {
  std::vector<float> sums(counts.size());
  double sum = 0;
  float float_sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    sum += static_cast<float>(counts[i]);
    float_sum += static_cast<float>(counts[i]);
    // numpy.cumsum of float32 adds float32, torch.cumsum adds in double.
    sums[i] = arithmetic == GreedyArithmetic::kMegengine ? float_sum : static_cast<float>(sum);
  }
  // Python's sum() becomes a double, torch.sum is a float32.
  *total = arithmetic == GreedyArithmetic::kMegengine ? sum : static_cast<float>(sum);
  return sums;
}

struct Bins {
  size_t first;
  size_t last;
};

Bins Search(const EqualWidthHistogram& histogram, int64_t levels, GreedyArithmetic arithmetic) {
  constexpr double kStep = 1e-5;
  double total = 0;
  const std::vector<float> sums = Cumulate(histogram.counts, arithmetic, &total);
  const GreedyError error_of(histogram.counts, levels);
  // A float32 tensor is compared with a Python number as float32.
  const auto quantile = [&](double share) {
    const double value = share * total;
    return arithmetic == GreedyArithmetic::kMegengine ? value : static_cast<double>(static_cast<float>(value));
  };
  double alpha = 0, beta = 1, best = std::numeric_limits<double>::infinity();
  Bins kept = {0, sums.size() - 1};
  // The references look for both quantiles from the ends in each round. They only move inwards: what was passed once
  // would be passed again.
  size_t lower = 0, upper = kept.last;
  while (alpha < beta) {
    const double next_alpha = alpha + kStep, next_beta = beta - kStep;
    const double low_count = quantile(next_alpha), high_count = quantile(next_beta);
    lower = std::clamp(lower, kept.first, kept.last);
    upper = std::clamp(upper, kept.first, kept.last);
    while (lower < kept.last && sums[lower] < low_count) ++lower;
    while (upper > kept.first && sums[upper] > high_count) --upper;
    Bins next = kept;
    if (lower - kept.first > kept.last - upper) {
      next.first = lower;
      alpha = next_alpha;
    } else {
      next.last = upper;
      beta = next_beta;
    }
    if (next.first == kept.first && next.last == kept.last) continue;
    const double error = error_of(next.first, next.last);
    if (error > best) break;
    best = error;
    kept = next;
  }
  return kept;
}

}  // namespace

ClipRange L2GreedyRange(const EqualWidthHistogram& histogram, int64_t levels, GreedyArithmetic arithmetic) {
  const double bins = static_cast<double>(histogram.counts.size());
  double low = histogram.low, high = histogram.high;
  if (low < high) {
    const Bins kept = Search(histogram, levels, arithmetic);
    const double begin = static_cast<double>(kept.first), end = static_cast<double>(kept.last + 1);
    const float width = static_cast<float>(high) - static_cast<float>(low);
    if (!std::isfinite(width)) {
      const double bin = (high - low) / bins;
      high = std::min(low + bin * end, high);
      low += bin * begin;
    } else {
      const double bin = arithmetic == GreedyArithmetic::kMegengine
                             ? static_cast<double>(width) / bins
                             : static_cast<double>(width / static_cast<float>(bins));
      const float origin = static_cast<float>(low);
      // The product of two float32 is exact in double, so this rounds once, as float32 arithmetic does.
      high = origin + static_cast<float>(bin * end);
      low = origin + static_cast<float>(bin * begin);
    }
  }
  return {std::min(low, 0.0), std::max(high, 0.0)};
}

}  // namespace calib
