#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/reference/step_plan.h"

namespace calib::reference {

absl::Status TooLarge(const State& state, const Range& step, double cells) {
  return absl::ResourceExhaustedError(
      absl::StrCat("a step from ", step.min, " to ", step.max, " would grow the ",
                   ReferenceRuleName(state.options.rule), " histogram, which lies on ", state.grid.low, " to ",
                   state.grid.high, ", to ", cells, " cells, more than max_bins = ", state.options.max_bins,
                   "; raise max_bins, begin with a wider step, or collect the canonical histogram"));
}

Cumulated::Cumulated(absl::Span<const double> counts, int64_t upsample, int64_t start, int64_t cells_per_bin)
    : counts_(counts), upsample_(upsample), start_(start), cells_per_bin_(cells_per_bin) {
  below_.reserve(counts.size() + 1);
  below_.push_back(0);
  for (const double count : counts) below_.push_back(below_.back() + count);
}

double Cumulated::At(int64_t bin) const {
  const int64_t cells =
      std::clamp<int64_t>((bin + 1) * cells_per_bin_ - start_, 0, static_cast<int64_t>(counts_.size()) * upsample_);
  const size_t whole = static_cast<size_t>(cells / upsample_);
  const double sum = below_[whole] * static_cast<double>(upsample_);
  const int64_t rest = cells % upsample_;
  return rest == 0 ? sum : sum + counts_[whole] * static_cast<double>(rest);
}

template <typename Real>
Real RoundHalfEven(Real x) {
  const Real below = std::floor(x), rest = x - below;
  if (rest < Real{0.5}) return below;
  if (rest > Real{0.5}) return below + 1;
  return std::fmod(below, Real{2}) == 0 ? below : below + 1;
}

template float RoundHalfEven(float);
template double RoundHalfEven(double);

float ToFiniteFloat(double x) {
  constexpr double kGreatest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(x, -kGreatest, kGreatest));
}

}  // namespace calib::reference
