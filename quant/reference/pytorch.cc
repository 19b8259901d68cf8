// PyTorch 1.13, HistogramObserver (torch/ao/quantization/observer.py), float32 throughout.

#include <algorithm>
#include <cmath>
#include <optional>

#include "quant/reference/step_plan.h"

namespace calib::reference {
namespace {

constexpr int64_t kPytorchUpsample = 128;

struct Growth {
  double cells_per_bin = 0;
  double max = 0;    // of the new range, a whole number of cells above its least
  double start = 0;  // the old range's first cell
};

// _adjust_min_max in this type; nothing when it over- or underflows.
template <typename Real>
std::optional<Growth> Align(const Range& old, float min, float max, uint32_t bins) {
  const Real width = static_cast<Real>(max) - static_cast<Real>(min);
  const Real old_width = static_cast<Real>(old.max) - static_cast<Real>(old.min);
  const Real cell = old_width / static_cast<Real>(int64_t{bins} * kPytorchUpsample);
  const Real unit = static_cast<Real>(bins) * cell;
  const Real cells_per_bin = std::ceil(width / unit);
  const Real end = static_cast<Real>(max) + (cells_per_bin * unit - width);
  const Real start = RoundHalfEven((static_cast<Real>(old.min) - static_cast<Real>(min)) / cell);
  if (!std::isfinite(cells_per_bin) || !std::isfinite(end) || !std::isfinite(start)) return std::nullopt;
  return Growth{cells_per_bin, end, start};
}

}  // namespace

absl::StatusOr<StepPlan> PlanPytorch(const State& state, const Range& step) {
  const uint32_t bins = state.options.bins;
  const Range& old = state.range;
  StepPlan plan;
  if (state.empty || old.min == old.max) {
    plan.min = step.min;
    plan.max = step.max;
  } else {
    plan.min = std::min(old.min, step.min);
    plan.max = std::max(old.max, step.max);
    plan.old_grid = state.grid;
    std::optional<Growth> growth = Align<float>(old, plan.min, plan.max, bins);
    if (!growth.has_value()) growth = Align<double>(old, plan.min, plan.max, bins);
    plan.max = ToFiniteFloat(growth->max);
    plan.carry = StepPlan::Carry::kAdd;
    if (plan.min != old.min || plan.max != old.max) {
      const double cells = growth->cells_per_bin * bins;
      if (!(cells <= state.options.max_bins)) return TooLarge(state, step, cells);
      plan.carry = StepPlan::Carry::kResample;
      plan.cells_per_bin = static_cast<int64_t>(growth->cells_per_bin);
      // Rounded, it can lie past the end; the reference fails then.
      const double last = std::max(growth->cells_per_bin - kPytorchUpsample, 0.0) * bins;
      plan.start = static_cast<int64_t>(std::clamp(growth->start, 0.0, last));
    }
  }
  plan.grid = {plan.min, plan.max, bins};
  // The reference hands int(min) and int(max) to histc, and fails beyond 2^63.
  plan.count_grid = HistcGrid(std::trunc(plan.min), std::trunc(plan.max), step, bins);
  return plan;
}

void CombinePytorch(const StepPlan& plan, Counted step, std::vector<double>* counts) {
  const auto new_count = [&](size_t i) { return static_cast<float>(step[i]); };
  switch (plan.carry) {
    case StepPlan::Carry::kAdd:
      for (size_t i = 0; i < step.size(); ++i) (*counts)[i] = new_count(i) + static_cast<float>((*counts)[i]);
      return;
    case StepPlan::Carry::kResample: {
      const std::vector<double> old = std::move(*counts);
      counts->resize(step.size());
      const Cumulated cumulated(old, kPytorchUpsample, plan.start, plan.cells_per_bin);
      float below = 0;  // the reference keeps the shifted sums in float32
      for (size_t i = 0; i < step.size(); ++i) {
        const double sum = cumulated.At(static_cast<int64_t>(i));
        (*counts)[i] = new_count(i) + static_cast<float>((sum - below) / static_cast<double>(kPytorchUpsample));
        below = static_cast<float>(sum);
      }
      return;
    }
    default:
      counts->resize(step.size());
      for (size_t i = 0; i < step.size(); ++i) (*counts)[i] = new_count(i);
  }
}

}  // namespace calib::reference
