#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "quant/expected_error.h"
#include "quant/methods.h"

namespace calib {
namespace {

// A scale, the best zero point with it, and what they cost.
struct Candidate {
  double scale = 0;
  int64_t zero_point = 0;
  double error = std::numeric_limits<double>::infinity();
};

// Evaluates scales on one model.
class Search {
 public:
  Search(const BinModel& model, const QuantRules& rules)
      : model_(model),
        rules_(rules),
        noise_(std::ldexp(model.square_sum(), -44)),
        least_scale_(LeastScale(rules)),
        widest_(FullScale()) {}

  // What rounding a scale to float32 can make, which is no difference.
  double noise() const { return noise_; }

  // The scale at which the codes just reach from min to max; 0 when no code can reach any value.
  double widest() const { return widest_; }
  double least_scale() const { return least_scale_; }
  // Steps from zero to the end that decides widest(), or from end to end when affine.
  int64_t steps() const { return steps_; }

  Candidate Evaluate(double scale) const {
    Candidate candidate{scale, rules_.symmetric ? rules_.symmetric_zero_point : BestZeroPoint(scale)};
    const double error = model_.positive().FastSquaredError(scale, rules_.qmax - candidate.zero_point) +
                         model_.negative().FastSquaredError(scale, candidate.zero_point - rules_.qmin);
    candidate.error = std::max(error, noise_);
    return candidate;
  }

 private:
  // Below FLT_MIN a float32 scale loses bits, and below zero_amplitude the preset changes it.
  static double LeastScale(const QuantRules& rules) {
    const double amplitude_floor = std::max(0.0f, rules.zero_amplitude) / rules.symmetric_divisor() * (1 + 0x1p-20);
    return std::max({amplitude_floor, static_cast<double>(rules.scale_floor),
                     static_cast<double>(std::numeric_limits<float>::min())});
  }

  double FullScale() {
    const double high = model_.positive().greatest(), low = model_.negative().greatest();
    if (!rules_.symmetric) {
      steps_ = rules_.qmax - rules_.qmin;
      return (high + low) / static_cast<double>(steps_);
    }
    const int64_t above = rules_.qmax - rules_.symmetric_zero_point, below = rules_.symmetric_zero_point - rules_.qmin;
    const double up = above > 0 ? high / static_cast<double>(above) : 0;
    const double down = below > 0 ? low / static_cast<double>(below) : 0;
    steps_ = up >= down ? above : below;
    return std::max(up, down);
  }

  // Each level more above zero lowers the error by 2 s G, and by less than the level before it, while it takes one from
  // below: the error is convex in the number of levels above, so the best split is where the two gains cross.
  int64_t BestZeroPoint(double scale) const {
    int64_t above = 0, end = steps_;
    while (above < end) {
      const int64_t middle = above + (end - above) / 2;
      const double gain = model_.positive().TailExcess((static_cast<double>(middle) + 0.5) * scale);
      const double loss = model_.negative().TailExcess((static_cast<double>(steps_ - middle) - 0.5) * scale);
      if (gain > loss) {
        above = middle + 1;
      } else {
        end = middle;
      }
    }
    return rules_.qmax - above;
  }

  const BinModel& model_;
  const QuantRules& rules_;
  double noise_;
  double least_scale_;
  int64_t steps_ = 0;
  double widest_;
};

// Coarse candidates by falling scale.
std::vector<Candidate> Sweep(const Search& search, double count) {
  std::vector<double> scales;
  const double widest = search.widest(), steps = static_cast<double>(search.steps());
  // Values on a lattice, such as pixels, are met exactly by a scale that divides the range; it has more than half of
  // the codes, else a divisor of it would fit too.
  constexpr int kMostDivisors = 128;
  const double stride = std::max(1.0, steps / 2 / kMostDivisors);
  for (double k = std::ceil(steps / 2); k < steps; k += stride) scales.push_back(widest * steps / std::floor(k));
  constexpr int kBetween = 16;
  for (int i = 1; i <= kBetween; ++i) scales.push_back(widest * (1 + static_cast<double>(i) / kBetween));
  scales.push_back(std::exp2(std::ceil(std::log2(widest))));
  std::erase_if(scales, [&](double scale) { return scale <= widest; });
  std::sort(scales.begin(), scales.end(), std::greater<>());
  scales.erase(std::unique(scales.begin(), scales.end()), scales.end());

  std::vector<Candidate> sweep;
  double best = std::numeric_limits<double>::infinity();
  const auto add = [&](double scale) {
    sweep.push_back(search.Evaluate(std::max(scale, search.least_scale())));
    best = std::min(best, sweep.back().error);
  };
  for (const double scale : scales) add(scale);
  const double ratio = std::exp2(-1.0 / 16);
  for (double scale = widest;; scale *= ratio) {
    add(scale);
    // Values inside the codes' range cost at most scale^2 / 4 each. What the others cost grows as the scale falls, so
    // once it is above the least error no smaller scale can win.
    if (scale <= search.least_scale() || sweep.back().error - count * scale * scale / 4 > best) break;
  }
  return sweep;
}

// Narrows down on the least error between the neighbours of sweep[place].
Candidate Refine(const Search& search, const std::vector<Candidate>& sweep, size_t place, int rounds) {
  constexpr int kPoints = 8;
  Candidate best = sweep[place];
  double high = sweep[place > 0 ? place - 1 : place].scale;
  double low = sweep[place + 1 < sweep.size() ? place + 1 : place].scale;
  for (int round = 0; round < rounds; ++round) {
    const double width = (high - low) / kPoints;
    const double start = low;
    for (int i = 1; i < kPoints; ++i) {
      const Candidate candidate = search.Evaluate(start + i * width);
      if (candidate.error < best.error) best = candidate;
    }
    low = std::max(search.least_scale(), best.scale - width);
    high = best.scale + width;
  }
  return best;
}

// Indices of the least `most` local minima of a sweep, the least first, of equal ones that nearest to `widest` first.
std::vector<size_t> Valleys(const std::vector<Candidate>& sweep, double widest, size_t most) {
  std::vector<size_t> valleys;
  for (size_t i = 0; i < sweep.size(); ++i) {
    if ((i == 0 || sweep[i].error <= sweep[i - 1].error) &&
        (i + 1 == sweep.size() || sweep[i].error <= sweep[i + 1].error)) {
      valleys.push_back(i);
    }
  }
  const auto order = [&](size_t i) { return std::make_pair(sweep[i].error, std::abs(sweep[i].scale - widest)); };
  std::stable_sort(valleys.begin(), valleys.end(), [&](size_t a, size_t b) { return order(a) < order(b); });
  if (valleys.size() > most) valleys.resize(most);
  return valleys;
}

bool Holds(const ClipRange& outer, const ClipRange& inner) { return outer.min <= inner.min && outer.max >= inner.max; }

// Whether `a` is to be preferred to `b` when both have the same error.
bool BreaksTie(const ClipRange& a, const ClipRange& b, const ClipRange& full) {
  const bool a_holds = Holds(a, full);
  if (a_holds != Holds(b, full)) return a_holds;
  const double a_width = a.max - a.min, b_width = b.max - b.min;
  return a_holds ? a_width < b_width : a_width > b_width;
}

}  // namespace

ClipRange MseRange(const BinModel& model, const QuantRules& rules) {
  const double amplitude = std::max(model.positive().greatest(), model.negative().greatest());
  ClipRange full = {std::min(model.min(), 0.0), std::max(model.max(), 0.0)};
  if (rules.symmetric) full = {0 - amplitude, amplitude};  // 0 - 0 is +0
  const Search search(model, rules);
  if (amplitude <= rules.zero_amplitude || search.widest() <= search.least_scale() / 2) return full;

  constexpr size_t kValleys = 6;
  constexpr int kRounds = 3;
  const std::vector<Candidate> sweep = Sweep(search, model.positive().mass() + model.negative().mass());
  std::vector<ClipRange> ranges = {full};
  for (const size_t place : Valleys(sweep, search.widest(), kValleys)) {
    for (const Candidate& found : {sweep[place], Refine(search, sweep, place, kRounds)}) {
      ranges.push_back(RangeForParams(rules, found.scale, found.zero_point));
    }
  }

  // The last word is the error of the parameters that come out in float32.
  std::vector<double> errors;
  errors.reserve(ranges.size());
  for (const ClipRange& range : ranges) {
    errors.push_back(EvaluateError(model, rules, ParamsForRange(rules, range)).squared_error);
  }
  const double limit = *std::min_element(errors.begin(), errors.end()) + search.noise();
  const ClipRange* best = nullptr;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (errors[i] <= limit && (best == nullptr || BreaksTie(ranges[i], *best, full))) best = &ranges[i];
  }
  return *best;
}

}  // namespace calib
