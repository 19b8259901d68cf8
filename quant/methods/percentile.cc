#include <algorithm>
#include <cmath>

#include "quant/methods.h"

namespace calib {
namespace {

using Bin = BinModel::Bin;
using Side = BinModel::Side;

// Expected value of the order statistic `rank` among the magnitudes of both sides and zero.
double MagnitudeOfRank(const BinModel& model, double rank) {
  if (rank >= model.count() - 1) return std::max(model.positive().greatest(), model.negative().greatest());
  double below = model.zeros();
  if (rank < below) return 0;
  const absl::Span<const Bin> a = model.positive().bins(), b = model.negative().bins();
  for (size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const Bin& bin = j == b.size() || (i < a.size() && a[i].end <= b[j].end) ? a[i++] : b[j++];
    below += bin.mass;
    if (rank < below) return (bin.begin + bin.end) / 2;
  }
  return 0;
}

// Expected magnitude of the order statistic `rank` of one side, by rising magnitude.
double SideOfRank(const Side& side, double rank) {
  for (const Bin& bin : side.bins()) {
    if (rank < bin.mass) return (bin.begin + bin.end) / 2;
    rank -= bin.mass;
  }
  return side.greatest();
}

// Expected value of the order statistic `rank` among all values.
double ValueOfRank(const BinModel& model, double rank) {
  if (rank <= 0) return model.min();
  if (rank >= model.count() - 1) return model.max();
  const double negatives = model.negative().mass();
  if (rank < negatives) return -SideOfRank(model.negative(), negatives - 1 - rank);
  rank -= negatives;
  return rank < model.zeros() ? 0 : SideOfRank(model.positive(), rank - model.zeros());
}

// The percentile between two neighbouring order statistics, as numpy.percentile's "linear" method.
template <typename OrderStatistic>
double Percentile(double count, double percentile, OrderStatistic order_statistic) {
  const double place = (count - 1) * (percentile / 100), rank = std::floor(place), share = place - rank;
  const double low = order_statistic(rank);
  return share > 0 ? low + share * (order_statistic(rank + 1) - low) : low;
}

}  // namespace

ClipRange PercentileRange(const BinModel& model, bool symmetric, double percentile, bool one_sided) {
  if (symmetric) {
    const double amplitude =
        Percentile(model.count(), percentile, [&](double rank) { return MagnitudeOfRank(model, rank); });
    return {0 - amplitude, amplitude};  // 0 - 0 is +0
  }
  const auto value = [&](double rank) { return ValueOfRank(model, rank); };
  if (one_sided) return {std::min(0.0, model.min()), std::max(0.0, Percentile(model.count(), percentile, value))};
  const double cut = (100 - percentile) / 2;
  return {std::min(0.0, Percentile(model.count(), cut, value)),
          std::max(0.0, Percentile(model.count(), 100 - cut, value))};
}

}  // namespace calib
