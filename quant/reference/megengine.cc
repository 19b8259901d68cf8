// MegEngine 1.13, HistogramObserver (imperative/python/megengine/quantization/observer.py). Its scalars are NumPy's:
// differences of float32 are float32, and everything that meets a Python number is double.

#include <algorithm>
#include <cmath>

#include "quant/reference/step_plan.h"

namespace calib::reference {
namespace {

constexpr int64_t kMegengineUpsample = 128;

double Width(float min, float max) {
  const float width = max - min;
  return std::isfinite(width) ? static_cast<double>(width) : static_cast<double>(max) - static_cast<double>(min);
}

}  // namespace

absl::StatusOr<StepPlan> PlanMegengine(const State& state, const Range& step) {
  const uint32_t bins = state.options.bins;
  StepPlan plan;
  if (state.empty) {
    plan.min = step.min;
    plan.max = step.max;
    plan.count_grid = NumpyGrid(plan.min, plan.max, bins);
    plan.grid = {plan.min, plan.max, bins};
    return plan;
  }
  const Range& old = state.range;
  plan.min = std::min(old.min, step.min);
  plan.max = std::max(old.max, step.max);
  plan.old_grid = state.grid;
  if (old.min == old.max) {
    // The reference divides by the width and fails.
    plan.count_grid = NumpyGrid(plan.min, plan.max, bins);
    plan.grid = {plan.min, plan.max, bins};
    plan.carry = StepPlan::Carry::kAdd;
    if (plan.min != plan.max) {
      plan.carry = StepPlan::Carry::kPoint;
      plan.start = BinOf(ReferenceRule::kMegengine, plan.count_grid, old.min);
    }
    return plan;
  }
  const double width = Width(plan.min, plan.max);
  const double cell = Width(old.min, old.max) / static_cast<double>(int64_t{bins} * kMegengineUpsample);
  const double unit = bins * cell;
  const double cells_per_bin = std::ceil(width / unit);
  const double excess = cells_per_bin * unit - width;
  const double high = plan.max + excess / 2, low = plan.min - excess / 2;
  const bool same = low == old.min && high == old.max;
  if (!same && !(cells_per_bin * bins <= state.options.max_bins)) return TooLarge(state, step, cells_per_bin * bins);
  plan.count_grid = {low, high, bins};
  if (low != plan.min) plan.min = ToFiniteFloat(low);
  if (high != plan.max) plan.max = ToFiniteFloat(high);
  plan.grid = {plan.min, plan.max, bins};
  if (same) {
    plan.carry = StepPlan::Carry::kAdd;
    return plan;
  }
  plan.carry = StepPlan::Carry::kResample;
  plan.cells_per_bin = static_cast<int64_t>(cells_per_bin);
  // Rounded, it can lie past the end; the reference fails then.
  const double last = std::max(cells_per_bin - kMegengineUpsample, 0.0) * bins;
  plan.start = static_cast<int64_t>(std::clamp(RoundHalfEven((old.min - low) / cell), 0.0, last));
  return plan;
}

void CombineMegengine(const StepPlan& plan, Counted step, std::vector<double>* counts) {
  std::vector<double> old = std::move(*counts);
  counts->assign(step.begin(), step.end());
  switch (plan.carry) {
    case StepPlan::Carry::kAdd:
      for (size_t i = 0; i < counts->size(); ++i) (*counts)[i] += old[i];
      break;
    case StepPlan::Carry::kPoint:
      for (const double count : old) (*counts)[static_cast<size_t>(plan.start)] += count;
      break;
    case StepPlan::Carry::kResample: {
      const Cumulated cumulated(old, kMegengineUpsample, plan.start, plan.cells_per_bin);
      double below = 0;
      for (size_t i = 0; i < counts->size(); ++i) {
        const double sum = cumulated.At(static_cast<int64_t>(i));
        (*counts)[i] += (sum - below) / static_cast<double>(kMegengineUpsample);
        below = sum;
      }
      break;
    }
    default:
      break;
  }
  for (double& count : *counts) count = static_cast<float>(count);
}

}  // namespace calib::reference
