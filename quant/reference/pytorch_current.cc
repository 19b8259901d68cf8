// PyTorch's HistogramObserver since pull request 129387, with the later fixes (torchao/quantization/pt2e/observer.py).

#include <algorithm>
#include <cmath>

#include "quant/reference/step_plan.h"

namespace calib::reference {
namespace {

constexpr int64_t kCurrentUpsample = 16;

// torch.linspace in float32. Its vector code adds up in other orders, which depend on the CPU.
class Linspace {
 public:
  Linspace(float low, float high, int64_t steps) : low_(low), high_(high), steps_(steps) {
    const float width = high - low;
    const double exact = (static_cast<double>(high) - static_cast<double>(low)) / static_cast<double>(steps - 1);
    step_ = std::isfinite(width) ? width / static_cast<float>(steps - 1) : static_cast<float>(exact);
  }
  float operator[](int64_t i) const {
    return i < steps_ / 2 ? low_ + step_ * static_cast<float>(i) : high_ - step_ * static_cast<float>(steps_ - i - 1);
  }
  float step() const { return step_; }

 private:
  float low_, high_, step_;
  int64_t steps_;
};

}  // namespace

StepPlan PlanPytorchCurrent(const State& state, const Range& step) {
  const uint32_t bins = state.options.bins;
  const Range& old = state.range;
  StepPlan plan;
  plan.min = state.empty ? step.min : std::min(old.min, step.min);
  plan.max = state.empty ? step.max : std::max(old.max, step.max);
  plan.count_grid = HistcGrid(plan.min, plan.max, step, bins);
  plan.grid = {plan.min, plan.max, bins};
  if (state.empty) return plan;
  plan.old_grid = state.grid;
  if (plan.min == old.min && plan.max == old.max) {
    plan.carry = StepPlan::Carry::kAdd;
  } else if (old.min == old.max) {
    plan.carry = StepPlan::Carry::kPoint;
    plan.start = BinOf(ReferenceRule::kPytorchCurrent, plan.count_grid, old.min);
  } else {
    plan.carry = StepPlan::Carry::kResample;
  }
  return plan;
}

void CombinePytorchCurrent(const StepPlan& plan, Counted step, std::vector<double>* counts) {
  const std::vector<double> old = std::move(*counts);
  const int64_t bins = static_cast<int64_t>(step.size());
  std::vector<float> carried(step.size());
  switch (plan.carry) {
    case StepPlan::Carry::kAdd:
      for (size_t i = 0; i < step.size(); ++i) carried[i] = static_cast<float>(old[i]);
      break;
    case StepPlan::Carry::kPoint: {
      double sum = 0;
      for (const double count : old) sum += count;
      carried[static_cast<size_t>(plan.start)] = static_cast<float>(sum);
      break;
    }
    case StepPlan::Carry::kResample: {
      const float low = static_cast<float>(plan.old_grid.low), high = static_cast<float>(plan.old_grid.high);
      const Linspace parts(low, high, bins * kCurrentUpsample + 1);
      const Linspace edges(plan.min, plan.max, bins + 1);
      const float half = 0.5f * parts.step();
      int64_t above = 0;  // the first edge above the middle: middles do not fall
      for (int64_t i = 0; i < bins * kCurrentUpsample; ++i) {
        const float middle = parts[i] + half;
        while (above <= bins && edges[above] <= middle) ++above;
        const size_t bin = static_cast<size_t>(std::clamp<int64_t>(above - 1, 0, bins - 1));
        carried[bin] +=
            static_cast<float>(old[static_cast<size_t>(i / kCurrentUpsample)]) / static_cast<float>(kCurrentUpsample);
      }
      break;
    }
    default:
      break;
  }
  counts->resize(step.size());
  for (size_t i = 0; i < step.size(); ++i) (*counts)[i] = static_cast<float>(step[i]) + carried[i];
}

}  // namespace calib::reference
