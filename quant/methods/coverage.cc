#include <algorithm>
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
    const bool drop_last = bins[last].mass <= bins[first].mass;
    const double lighter = bins[drop_last ? last : first].mass;
    if (kept - lighter < needed) break;
    kept -= lighter;
    drop_last ? --last : ++first;
  }
  return {std::min(0.0, bins[first].least), std::max(0.0, bins[last].greatest)};
}

}  // namespace calib
