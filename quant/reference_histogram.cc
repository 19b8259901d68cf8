#include "quant/reference_histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/reference/step_plan.h"

namespace calib {
namespace {

using reference::State;
using reference::StepPlan;

constexpr uint32_t kMostBins = uint32_t{1} << 16;
constexpr uint32_t kMostCells = uint32_t{1} << 26;

// The options with their defaults in place.
ReferenceOptions Resolve(ReferenceOptions options) {
  const bool mxnet = options.rule == ReferenceRule::kMxnet;
  if (options.bins == 0) options.bins = mxnet ? 8001 : 2048;
  if (options.max_bins == 0) {
    options.max_bins = std::max(options.bins, uint32_t{1} << (mxnet ? 20 : 24));
  }
  return options;
}

absl::StatusOr<StepPlan> MakePlan(const State& state, const Range& step) {
  if (!std::isfinite(step.min) || !std::isfinite(step.max) || step.min > step.max) {
    return absl::InvalidArgumentError(
        absl::StrCat("a step's finite values can't lie from ", step.min, " to ", step.max));
  }
  switch (state.options.rule) {
    case ReferenceRule::kMegengine:
      return reference::PlanMegengine(state, step);
    case ReferenceRule::kPytorch:
      return reference::PlanPytorch(state, step);
    case ReferenceRule::kPytorchCurrent:
      return reference::PlanPytorchCurrent(state, step);
    case ReferenceRule::kMxnet:
      return reference::PlanMxnet(state, step);
  }
  return absl::InternalError("no such rule");
}

void Combine(ReferenceRule rule, const StepPlan& plan, absl::Span<const uint64_t> step, std::vector<double>* counts) {
  switch (rule) {
    case ReferenceRule::kMegengine:
      return reference::CombineMegengine(plan, step, counts);
    case ReferenceRule::kPytorch:
      return reference::CombinePytorch(plan, step, counts);
    case ReferenceRule::kPytorchCurrent:
      return reference::CombinePytorchCurrent(plan, step, counts);
    case ReferenceRule::kMxnet:
      return reference::CombineMxnet(plan, step, counts);
  }
}

absl::Status BadState(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a reference histogram: ", why));
}

// Whether a rule can have put values of this range onto this grid.
absl::Status CheckGrid(const ReferenceOptions& options, const ReferenceGrid& grid, const Range& range) {
  if (!std::isfinite(range.min) || !std::isfinite(range.max) || range.min > range.max) return BadState("its range");
  if (options.rule != ReferenceRule::kMxnet) {
    if (grid.bins != options.bins) return BadState("its number of bins is not the options'");
    if (grid.low != range.min || grid.high != range.max) return BadState("its grid is not its range");
    return absl::OkStatus();
  }
  if (grid.bins % 2 == 0 || grid.bins < options.bins || grid.bins > options.max_bins) {
    return BadState("its number of bins");
  }
  // Values are up to the greatest float32, and the last step of growth adds at most a bin.
  constexpr double kGreatest = 4.0 * std::numeric_limits<float>::max();
  if (!(grid.high > 0) || grid.high > kGreatest || grid.low != -grid.high) return BadState("its grid");
  // The threshold grows by whole bins, rounded.
  constexpr double kRounding = 1 + 1e-9;
  if (-range.min > grid.high * kRounding || range.max > grid.high * kRounding) return BadState("its range");
  return absl::OkStatus();
}

absl::Status CheckCounts(ReferenceRule rule, const Range& range, absl::Span<const double> counts) {
  // float32 sums of resampled counts are off by some 2^-24 of all values a step.
  const double slack = rule == ReferenceRule::kMxnet ? 0 : 1 + 1e-3 * static_cast<double>(range.count);
  double sum = 0;
  for (const double count : counts) {
    if (!(count >= -slack) || !std::isfinite(count)) return BadState("a count is negative or not finite");
    if (rule == ReferenceRule::kMxnet && count != std::floor(count)) return BadState("a count is not a whole number");
    sum += count;
  }
  if (sum > static_cast<double>(range.count) + slack) return BadState("more is counted than there were values");
  return absl::OkStatus();
}

}  // namespace

absl::string_view ReferenceRuleName(ReferenceRule rule) {
  switch (rule) {
    case ReferenceRule::kMegengine:
      return "megengine";
    case ReferenceRule::kPytorch:
      return "pytorch";
    case ReferenceRule::kPytorchCurrent:
      return "pytorch_current";
    case ReferenceRule::kMxnet:
      return "mxnet";
  }
  return "unknown";
}

absl::StatusOr<ReferenceRule> ParseReferenceRule(absl::string_view name) {
  for (const ReferenceRule rule :
       {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
    if (name == ReferenceRuleName(rule)) return rule;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown reference rule \"", name, "\"; use megengine, pytorch, pytorch_current or mxnet"));
}

absl::Status CheckReferenceOptions(const ReferenceOptions& options) {
  const auto resolved = Resolve(options);
  if (resolved.bins < 2 || resolved.bins > kMostBins) {
    return absl::InvalidArgumentError(absl::StrCat("bins is ", resolved.bins, "; it must be 2 to ", kMostBins));
  }
  if (options.rule == ReferenceRule::kMxnet && resolved.bins % 2 == 0) {
    return absl::InvalidArgumentError(absl::StrCat("bins is ", resolved.bins, "; rule mxnet needs an odd number"));
  }
  if (resolved.max_bins < resolved.bins || resolved.max_bins > kMostCells) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_bins is ", resolved.max_bins, "; it must be bins, ", resolved.bins, ", to ", kMostCells));
  }
  return absl::OkStatus();
}

ReferenceHistogram::ReferenceHistogram(const ReferenceOptions& options) : options_(options) {}

absl::StatusOr<ReferenceHistogram> ReferenceHistogram::Restore(const ReferenceOptions& options,
                                                               const ReferenceGrid& grid, const Range& range,
                                                               uint64_t steps, std::vector<double> counts) {
  if (absl::Status status = CheckReferenceOptions(options); !status.ok()) return status;
  if (absl::Status status = Range().CheckMerge(range); !status.ok()) return status;
  ReferenceHistogram histogram(options);
  if (steps == 0) {
    if (grid != ReferenceGrid() || !counts.empty()) return BadState("it has bins before its first step");
    const Range none;
    if (range.count != 0 || range.min != none.min || range.max != none.max) return BadState("it has values, no steps");
  } else {
    if (range.count < steps) return BadState("it has fewer values than steps");
    if (counts.size() != grid.bins) return BadState("its number of counts is not the grid's");
    const ReferenceOptions resolved = Resolve(options);
    if (absl::Status status = CheckGrid(resolved, grid, range); !status.ok()) return status;
    if (absl::Status status = CheckCounts(options.rule, range, counts); !status.ok()) return status;
  }
  histogram.grid_ = grid;
  histogram.range_ = range;
  histogram.steps_ = steps;
  histogram.counts_ = std::move(counts);
  return histogram;
}

absl::StatusOr<ReferenceGrid> ReferenceHistogram::NextGrid(const Range& step) const {
  if (step.empty()) return ReferenceGrid();
  const ReferenceOptions options = Resolve(options_);
  const absl::StatusOr<StepPlan> plan = MakePlan({options, grid_, range_, empty()}, step);
  if (!plan.ok()) return plan.status();
  return plan->count_grid;
}

absl::Status ReferenceHistogram::Fold(const Range& step, const ReferenceGrid& grid, absl::Span<const uint64_t> counts) {
  StepPlan plan;
  if (!step.empty()) {
    const ReferenceOptions options = Resolve(options_);
    absl::StatusOr<StepPlan> made = MakePlan({options, grid_, range_, empty()}, step);
    if (!made.ok()) return made.status();
    plan = *std::move(made);
  }
  if (grid != plan.count_grid) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the step was counted on ", grid.bins, " bins from ", grid.low, " to ", grid.high, ", not on the ",
        plan.count_grid.bins, " from ", plan.count_grid.low, " to ", plan.count_grid.high, " that come next"));
  }
  if (counts.size() != grid.bins) {
    return absl::InvalidArgumentError(absl::StrCat(counts.size(), " counts for ", grid.bins, " bins"));
  }
  uint64_t left = step.count;
  for (const uint64_t count : counts) {
    if (count > left) {
      return absl::InvalidArgumentError(absl::StrCat("more is counted than the step's ", step.count, " values"));
    }
    left -= count;
  }
  if (absl::Status status = range_.CheckMerge(step); !status.ok()) return status;
  range_.Merge(step);
  if (step.empty()) return absl::OkStatus();
  Combine(options_.rule, plan, counts, &counts_);
  range_.min = plan.min;
  range_.max = plan.max;
  grid_ = plan.grid;
  ++steps_;
  return absl::OkStatus();
}

size_t ReferenceHistogram::MemoryBytes() const { return sizeof(*this) + counts_.capacity() * sizeof(double); }

}  // namespace calib
