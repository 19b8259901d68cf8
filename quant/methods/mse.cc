#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "quant/methods.h"
#include "quant/methods/mse_search.h"

namespace calib {
namespace {

using Candidate = MseSearch::Candidate;

// Scales that put the greatest magnitude on a code, so that values on a lattice, such as pixels, are met exactly. A
// code beyond half of the codes will do: below that a divisor of the scale would fit too.
void AddDivisors(const MseSearch& search, CodeKind kind, std::vector<double>* scales) {
  const double widest = search.widest(), steps = static_cast<double>(search.steps());
  if (IsFloat8(kind)) {
    for (const double number : Float8Numbers(kind)) {
      if (number >= steps / 2) scales->push_back(widest * steps / number);
    }
    return;
  }
  constexpr int kMostDivisors = 128;
  const double stride = std::max(1.0, steps / 2 / kMostDivisors);
  for (double k = std::ceil(steps / 2); k < steps; k += stride) scales->push_back(widest * steps / std::floor(k));
}

// Whether no smaller scale can be better than `best`: what values inside the codes' range cost is bounded, and what the
// others cost grows as the scale falls.
bool IsBeyond(const MseSearch& search, const Candidate& candidate, double best) {
  return candidate.error - search.MostInside(candidate.scale) > best;
}

// Coarse candidates by falling scale.
std::vector<Candidate> Sweep(const MseSearch& search, const QuantRules& rules) {
  std::vector<double> scales;
  const double widest = search.widest();
  AddDivisors(search, rules.kind, &scales);
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
    if (scale <= search.least_scale() || IsBeyond(search, sweep.back(), best)) break;
  }
  return sweep;
}

// Powers of two by falling scale.
std::vector<Candidate> SweepPowersOfTwo(const MseSearch& search) {
  std::vector<Candidate> sweep;
  double best = std::numeric_limits<double>::infinity();
  // Twice the least that reaches all values: more only makes steps longer.
  constexpr double kGreatest = 0x1p127;
  double scale = std::min(std::exp2(std::ceil(std::log2(search.widest())) + 1), kGreatest);
  for (; scale >= search.least_scale(); scale /= 2) {
    sweep.push_back(search.Evaluate(scale));
    best = std::min(best, sweep.back().error);
    if (scale < search.widest() && IsBeyond(search, sweep.back(), best)) break;
  }
  return sweep;
}

// Narrows down on the least error between the neighbours of sweep[place].
Candidate Refine(const MseSearch& search, const std::vector<Candidate>& sweep, size_t place, int rounds) {
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
bool BreaksTie(const ClipRange& a, const ClipRange& b, const ClipRange& reached) {
  const bool a_holds = Holds(a, reached);
  if (a_holds != Holds(b, reached)) return a_holds;
  const double a_width = a.max - a.min, b_width = b.max - b.min;
  return a_holds ? a_width < b_width : a_width > b_width;
}

}  // namespace

ClipRange MseRange(const BinModel& model, const QuantRules& rules, double norm) {
  const double amplitude = std::max(model.positive().greatest(), model.negative().greatest());
  ClipRange full = {std::min(model.min(), 0.0), std::max(model.max(), 0.0)};
  if (rules.symmetric) full = {0 - amplitude, amplitude};  // 0 - 0 is +0
  if (amplitude <= std::max(0.0f, rules.zero_amplitude)) return full;
  const MseSearch search(model, rules, norm);
  if (search.widest() <= search.least_scale() / 2) return full;
  const ClipRange reached = rules.symmetric ? ClipRange{0 - search.amplitude(), search.amplitude()} : full;

  // Other norms cost more for each candidate, and are asked for coarse types.
  const size_t most_valleys = norm == 2 ? 6 : 3;
  constexpr int kRounds = 3;
  std::vector<ClipRange> ranges = {full};
  const auto add = [&](const Candidate& found) {
    ranges.push_back(RangeForParams(rules, found.scale, found.zero_point));
  };
  if (rules.power_of_two_scale) {
    for (const Candidate& found : SweepPowersOfTwo(search)) add(found);
  } else {
    const std::vector<Candidate> sweep = Sweep(search, rules);
    for (const size_t place : Valleys(sweep, search.widest(), most_valleys)) {
      add(sweep[place]);
      add(Refine(search, sweep, place, kRounds));
    }
  }

  // The last word is the error of the parameters that come out in float32.
  std::vector<double> errors;
  errors.reserve(ranges.size());
  for (const ClipRange& range : ranges) errors.push_back(search.Judge(ParamsForRange(rules, range)));
  const double limit = *std::min_element(errors.begin(), errors.end()) + search.noise();
  const ClipRange* best = nullptr;
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (errors[i] <= limit && (best == nullptr || BreaksTie(ranges[i], *best, reached))) best = &ranges[i];
  }
  return *best;
}

}  // namespace calib
