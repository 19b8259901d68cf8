#include <algorithm>
#include <numeric>
#include <vector>

#include "quant/methods.h"

namespace calib {
namespace {

// A filled bin with its sign.
struct SignedBin {
  double least;
  double greatest;
  double mass;
};

}  // namespace

ClipRange CoverageRange(const BinModel& model, double coverage) {
  const auto negative = model.negative().bins(), positive = model.positive().bins();
  std::vector<SignedBin> bins;
  bins.reserve(negative.size() + positive.size() + 1);
  for (auto bin = negative.rbegin(); bin != negative.rend(); ++bin) bins.push_back({-bin->end, -bin->begin, bin->mass});
  if (model.zeros() > 0) bins.push_back({0, 0, model.zeros()});
  for (const auto& bin : positive) bins.push_back({bin.begin, bin.end, bin.mass});

  const double needed = coverage * model.count();
  double kept = model.count();
  size_t first = 0, last = bins.size() - 1;
  while (first < last) {
    const SignedBin &low = bins[first], &high = bins[last];
    // Dropping a bin between zero and the others would keep fewer values in the same range.
    bool drop_last = low.least >= 0;
    if (low.least < 0 && high.greatest > 0) {
      drop_last = high.mass != low.mass ? high.mass < low.mass : high.greatest >= -low.least;
    }
    const double lighter = drop_last ? high.mass : low.mass;
    if (kept - lighter < needed) break;
    kept -= lighter;
    drop_last ? --last : ++first;
  }
  return {std::min(0.0, bins[first].least), std::max(0.0, bins[last].greatest)};
}

ClipRange CoverageRange(const EqualWidthHistogram& histogram, double coverage) {
  const absl::Span<const double> counts = histogram.counts;
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double kept = total;
  size_t first = 0, last = counts.size() - 1;
  while (first < last && kept / total > coverage)
    kept -= counts[last] <= counts[first] ? counts[last--] : counts[first++];
  const auto lower_edge = [&](size_t i) {
    return histogram.low +
           (histogram.high - histogram.low) * static_cast<double>(i) / static_cast<double>(counts.size());
  };
  return {std::min(0.0, lower_edge(first)), std::max(0.0, lower_edge(last))};
}

}  // namespace calib
