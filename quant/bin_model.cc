#include "quant/bin_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>

namespace calib {
namespace {

// Key, at this resolution, of the positive bin that b falls into.
int64_t KeyAt(double b, int mantissa_bits) {
  constexpr double kLeastNormal = 0x1p-126;
  if (b < kLeastNormal) return static_cast<int64_t>(b * 0x1p126 * static_cast<double>(1 << mantissa_bits));
  constexpr int64_t kBiasDifference = 1023 - 127;
  return static_cast<int64_t>(std::bit_cast<uint64_t>(b) >> (52 - mantissa_bits)) - (kBiasDifference << mantissa_bits);
}

// Sum of x^2 over a bin.
double SquareSum(const BinModel::Bin& bin) {
  const double squares = bin.begin * bin.begin + bin.begin * bin.end + bin.end * bin.end;
  return bin.uniform_mass() * squares / 3 + bin.at_begin * bin.begin * bin.begin + bin.at_end * bin.end * bin.end;
}

// The nearest code and how far a value is from it.
struct Rounded {
  double code;
  double distance;
};

Rounded Round(double x, double step, double inverse, double levels) {
  // std::round is a call on x86-64 without SSE4.1; truncating the positive number is not, and the clamp keeps it in
  // range.
  const double code = static_cast<double>(static_cast<int64_t>(std::min(x * inverse + 0.5, levels)));
  return {code, x - code * step};
}

}  // namespace

const BinModel::Side::Knot& BinModel::Side::KnotAt(double b) const {
  if (mantissa_bits_ == 0) {
    return *std::partition_point(knots_.begin(), knots_.end() - 1, [&](const Knot& knot) { return knot.upper <= b; });
  }
  return knots_[static_cast<size_t>(KeyAt(b, mantissa_bits_) - first_key_)];
}

double BinModel::Side::TailMass(double b) const {
  if (b >= greatest()) return 0;
  if (b < least()) return mass_;
  const Knot& knot = KnotAt(b);
  return knot.mass_above + knot.density * (knot.upper - b);
}

double BinModel::Side::TailExcess(double b) const {
  if (b >= greatest()) return 0;
  if (b < least()) return excess_ + mass_ * (least() - b);
  const Knot& knot = KnotAt(b);
  const double distance = knot.upper - b;
  return knot.excess_above + distance * (knot.mass_above + 0.5 * knot.density * distance);
}

double BinModel::Side::SquaredError(double step, int64_t levels) const {
  if (levels == 0) return square_sum();
  const auto first =
      std::partition_point(bins_.begin(), bins_.end(), [&](const Bin& bin) { return bin.end <= step / 2; });
  double error = square_below_[static_cast<size_t>(first - bins_.begin())];
  const double inverse = 1 / step, top = static_cast<double>(levels), cell = step * step * step / 12;
  for (auto bin = first; bin != bins_.end(); ++bin) {
    const Rounded end = Round(bin->end, step, inverse, top);
    error += bin->at_end * end.distance * end.distance;
    if (bin->begin == bin->end) continue;
    const Rounded begin = Round(bin->begin, step, inverse, top);
    const double cubes = end.distance * end.distance * end.distance - begin.distance * begin.distance * begin.distance;
    error += bin->at_begin * begin.distance * begin.distance;
    error += bin->uniform_mass() / (bin->end - bin->begin) * ((end.code - begin.code) * cell + cubes / 3);
  }
  return error;
}

double BinModel::Side::FastSquaredError(double step, int64_t levels) const {
  const double needed = std::ceil(greatest() / step);  // levels beyond these hold nothing
  const int64_t reached = needed < static_cast<double>(levels) ? static_cast<int64_t>(needed) : levels;
  // A bin costs about as much as three levels, and tensors have a thousand or two in reach.
  constexpr int64_t kMostLevels = 4096;
  if (reached > kMostLevels) return SquaredError(step, levels);
  double excess = 0;
  for (int64_t i = 0; i < reached; ++i) excess += TailExcess((static_cast<double>(i) + 0.5) * step);
  return square_sum() - 2 * step * excess;
}

void BinModel::Side::FinishKeys(int mantissa_bits) {
  mantissa_bits_ = mantissa_bits;
  if (!bins_.empty()) {
    first_key_ = KeyAt(least(), mantissa_bits);
    knots_.resize(static_cast<size_t>(KeyAt(greatest(), mantissa_bits) - first_key_ + 1));
  }
  Finish(
      [&](size_t i) { return BinBegin(static_cast<uint32_t>(first_key_ + static_cast<int64_t>(i)), mantissa_bits); });
}

template <typename LowerEdge>
void BinModel::Side::Finish(const LowerEdge& lower_edge) {
  square_below_.assign(1, 0.0);
  for (const Bin& bin : bins_) square_below_.push_back(square_below_.back() + SquareSum(bin));
  if (bins_.empty()) return;
  // From the outside in, so that few far values are not lost among many near ones.
  auto bin = bins_.rbegin();
  double upper = greatest(), mass = bin->at_end, excess = 0;
  for (size_t i = knots_.size(); i-- > 0;) {
    const double lower = std::clamp(lower_edge(i), least(), upper);
    const double width = upper - lower;
    double uniform = 0, at_lower = 0;
    if (bin != bins_.rend() && bin->begin >= lower) {
      uniform = bin->uniform_mass();
      const bool point = bin->begin == bin->end;
      at_lower = bin->at_begin + (point && bin != bins_.rbegin() ? bin->at_end : 0);
      ++bin;
    }
    knots_[i] = {upper, width > 0 ? uniform / width : 0, mass, excess};
    excess += width * (mass + uniform / 2);
    mass += uniform + at_lower;
    upper = lower;
  }
  mass_ = mass;
  excess_ = excess;
}

BinModel::BinModel(const EqualWidthHistogram& histogram) {
  const size_t count = histogram.counts.size();
  const auto edge = [&](size_t i) {
    return i == count ? histogram.high
                      : histogram.low +
                            (histogram.high - histogram.low) * (static_cast<double>(i) / static_cast<double>(count));
  };
  // Edges of each side by rising magnitude; a bin that holds zero is cut in two there.
  std::vector<double> positive_edges, negative_edges;
  const auto add = [](Side* side, std::vector<double>* edges, double begin, double end, double mass) {
    if (edges->empty()) edges->push_back(begin);
    edges->push_back(end);
    if (mass > 0) side->bins_.push_back({begin, end, mass, 0, begin == end ? mass : 0});
  };
  for (size_t i = 0; i < count; ++i) {
    const double begin = edge(i), end = edge(i + 1), mass = histogram.counts[i];
    if (end <= 0 || mass < 0) continue;
    const double share = begin >= 0 ? 1 : end / (end - begin);
    add(&positive_, &positive_edges, std::max(begin, 0.0), end, mass * share);
  }
  for (size_t i = count; i-- > 0;) {
    const double begin = edge(i), end = edge(i + 1), mass = histogram.counts[i];
    if (begin >= 0 || mass < 0) continue;
    const double share = end <= 0 ? 1 : -begin / (end - begin);
    add(&negative_, &negative_edges, std::max(-end, 0.0), -begin, mass * share);
  }
  for (const auto& [side, edges] : {std::tuple<Side*, std::vector<double>*>(&positive_, &positive_edges),
                                    std::tuple<Side*, std::vector<double>*>(&negative_, &negative_edges)}) {
    // One knot for each bin from the first filled one to the last.
    const auto first = std::find(edges->begin(), edges->end(), side->least());
    const auto last = std::find(edges->begin(), edges->end(), side->greatest());
    if (!side->bins_.empty()) side->knots_.resize(static_cast<size_t>(last - first));
    side->Finish([&](size_t i) { return first[static_cast<std::ptrdiff_t>(i)]; });
  }
  min_ = negative_.bins().empty() ? positive_.least() : -negative_.greatest();
  max_ = positive_.bins().empty() ? 0 - negative_.least() : positive_.greatest();
}

BinModel::BinModel(const ChannelStatistics& statistics) : min_(statistics.range.min), max_(statistics.range.max) {
  const Bfloat16Histogram& histogram = *statistics.histogram;
  const int mantissa_bits = histogram.mantissa_bits();
  constexpr int kSignPages = Bfloat16Histogram::kPages / 2;
  for (int page = 0; page < Bfloat16Histogram::kPages; ++page) {
    const absl::Span<const uint64_t> counters = histogram.page(page);
    Side& side = page < kSignPages ? positive_ : negative_;
    for (size_t i = 0; i < counters.size(); ++i) {
      if (counters[i] == 0) continue;
      const double mass = static_cast<double>(counters[i]);
      const uint32_t key = (static_cast<uint32_t>(page % kSignPages) << mantissa_bits) + static_cast<uint32_t>(i);
      if (key == 0) {
        zeros_ += mass;
        continue;
      }
      const double begin = BinBegin(key, mantissa_bits);
      if (histogram.lossless()) {
        side.bins_.push_back({begin, begin, mass, 0, mass});
      } else {
        side.bins_.push_back({begin, BinEnd(key, mantissa_bits), mass, 0, 0});
      }
    }
  }
  // Statistics may come from elsewhere: an extreme that lies outside its bin must not break the model.
  for (const auto& [side, least, greatest] : {std::tuple<Side*, double, double>(&positive_, min_, max_),
                                              std::tuple<Side*, double, double>(&negative_, -max_, -min_)}) {
    if (!side->bins_.empty() && !histogram.lossless()) {
      Bin& top = side->bins_.back();
      Bin& bottom = side->bins_.front();
      top.at_end = 1;
      if (least >= bottom.begin && least < bottom.end) {
        bottom.begin = least;
        if (bottom.mass > bottom.at_end) bottom.at_begin = 1;
      }
      top.end = std::clamp(greatest, top.begin, top.end);
      if (top.begin == top.end) top = {top.begin, top.end, top.mass, 0, top.mass};
    }
    side->FinishKeys(mantissa_bits);
  }
}

}  // namespace calib
