// Apache MXNet 1.9, _LayerHistogramCollector and combine_histogram (python/mxnet/contrib/quantization.py).

#include <algorithm>
#include <cmath>

#include "quant/reference/step_plan.h"

namespace calib::reference {
namespace {

// NumPy's floor_divide of positive numbers: from the exact remainder.
double FloorDivide(double a, double b) {
  const double quotient = (a - std::fmod(a, b)) / b;
  const double below = std::floor(quotient);
  return quotient - below > 0.5 ? below + 1 : below;
}

}  // namespace

absl::StatusOr<StepPlan> PlanMxnet(const State& state, const Range& step) {
  const float threshold = std::max(std::abs(step.min), std::abs(step.max));
  const Range& old = state.range;
  StepPlan plan;
  plan.min = state.empty ? step.min : std::min(old.min, step.min);
  plan.max = state.empty ? step.max : std::max(old.max, step.max);
  const bool zeros = !state.empty && old.min == 0 && old.max == 0;
  if (state.empty || (zeros && threshold > 0)) {
    plan.grid = plan.count_grid = NumpyGrid(-threshold, threshold, state.options.bins);
    if (zeros) {
      // The reference divides by the width of zero and fails. All that was seen lies in the middle.
      plan.carry = StepPlan::Carry::kPoint;
      plan.start = state.options.bins / 2;
    }
    return plan;
  }
  const double old_threshold = state.grid.high;
  if (zeros || threshold <= old_threshold) {
    plan.grid = plan.count_grid = state.grid;
    plan.carry = StepPlan::Carry::kAdd;
    return plan;
  }
  const double width = 2 * old_threshold / state.grid.bins;
  // Until it grows, the reference's threshold is a float32, and so is the difference.
  const double growth = state.grid.bins == state.options.bins
                            ? static_cast<double>(threshold - static_cast<float>(old_threshold))
                            : threshold - old_threshold;
  const double added = FloorDivide(growth, width) + 1;
  const double bins = state.grid.bins + 2 * added;
  if (!(bins <= state.options.max_bins)) return TooLarge(state, step, bins);
  const double new_threshold = added * width + old_threshold;
  plan.grid = plan.count_grid = {-new_threshold, new_threshold, static_cast<uint32_t>(bins)};
  plan.carry = StepPlan::Carry::kShift;
  plan.start = static_cast<int64_t>(added);
  return plan;
}

void CombineMxnet(const StepPlan& plan, Counted step, std::vector<double>* counts) {
  std::vector<double> old = std::move(*counts);
  counts->assign(step.begin(), step.end());
  switch (plan.carry) {
    case StepPlan::Carry::kAdd:
    case StepPlan::Carry::kShift:
      for (size_t i = 0; i < old.size(); ++i) (*counts)[i + static_cast<size_t>(plan.start)] += old[i];
      return;
    case StepPlan::Carry::kPoint:
      for (const double count : old) (*counts)[static_cast<size_t>(plan.start)] += count;
      return;
    default:
      return;
  }
}

}  // namespace calib::reference
