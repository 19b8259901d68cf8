#include <algorithm>
#include <cmath>

#include "quant/searches.h"

namespace calib {
namespace {

class Filler {
 public:
  Filler(double low, double high, absl::Span<double> counts)
      : low_(low), inverse_(static_cast<double>(counts.size()) / (high - low)), counts_(counts) {}

  void AddPoint(double x, double mass) { counts_[At(Position(x))] += mass; }

  // Adds mass that is uniform from begin to end.
  void AddUniform(double begin, double end, double mass) {
    const double from = Position(begin), to = Position(end);
    const size_t first = At(from), last = At(to);
    const double density = mass / (to - from);
    if (first == last || !std::isfinite(density)) {
      counts_[first] += mass;
      return;
    }
    // The outermost bins also take what lies outside. The last one takes the rest, so that nothing is lost.
    double left = mass;
    const auto add = [&](size_t bin, double width) {
      const double part = std::min(width * density, left);
      counts_[bin] += part;
      left -= part;
    };
    add(first, static_cast<double>(first + 1) - from);
    for (size_t bin = first + 1; bin < last; ++bin) add(bin, 1);
    counts_[last] += left;
  }

 private:
  // In widths of a bin.
  double Position(double x) const { return (x - low_) * inverse_; }
  size_t At(double position) const {
    const double last = static_cast<double>(counts_.size() - 1);
    return static_cast<size_t>(std::clamp(position, 0.0, last));
  }

  double low_, inverse_;
  absl::Span<double> counts_;
};

}  // namespace

void FillEqualWidth(const BinModel& model, double low, double high, absl::Span<double> counts) {
  std::fill(counts.begin(), counts.end(), 0.0);
  Filler filler(low, high, counts);
  if (model.zeros() > 0) filler.AddPoint(0, model.zeros());
  for (const double sign : {1.0, -1.0}) {
    const BinModel::Side& side = sign > 0 ? model.positive() : model.negative();
    for (const BinModel::Bin& bin : side.bins()) {
      if (bin.at_begin > 0) filler.AddPoint(sign * bin.begin, bin.at_begin);
      if (bin.at_end > 0) filler.AddPoint(sign * bin.end, bin.at_end);
      const double uniform = bin.mass - bin.at_begin - bin.at_end;
      if (uniform > 0) {
        filler.AddUniform(std::min(sign * bin.begin, sign * bin.end), std::max(sign * bin.begin, sign * bin.end),
                          uniform);
      }
    }
  }
}

}  // namespace calib
