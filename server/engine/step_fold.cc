#include "server/engine/step_fold.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "quant/calibrate.h"
#include "quant/learned_observer.h"
#include "server/engine/update.h"
#include "server/engine/validate.h"

namespace calib::server {
namespace {

absl::Status LayerError(const Layer& layer, v1::ErrorReason reason, const absl::Status& status) {
  return MakeError(reason, absl::StrCat("layer ", Quoted(layer.name), ": ", status.message()), {{"layer", layer.name}});
}

// Adds what another rank observed.
absl::Status AddRanges(const Layer& layer, const std::vector<Range>& added, std::vector<Range>* sum) {
  if (sum->empty()) sum->resize(added.size());
  for (size_t i = 0; i < added.size(); ++i) {
    if (absl::Status status = (*sum)[i].CheckMerge(added[i]); !status.ok()) {
      return LayerError(layer, v1::ERROR_REASON_COUNT_OVERFLOW, status);
    }
    (*sum)[i].Merge(added[i]);
  }
  return absl::OkStatus();
}

FoldedStep::Row ResultRow(const Range& step, const Range& observed) {
  FoldedStep::Row row;
  if (!step.empty()) {
    row.step_min = step.min;
    row.step_max = step.max;
  }
  if (!observed.empty()) {
    row.min = observed.min;
    row.max = observed.max;
  }
  return row;
}

}  // namespace

absl::StatusOr<StepFold> StepFold::Reduce(const OpenStep& step) {
  StepFold fold;
  std::unordered_map<const Layer*, size_t> places;
  // Ranks mostly give the same layers in the same order: then a layer's place is the one that it had before.
  const auto place_of = [&](Layer* layer, size_t guess) -> Reduced& {
    if (guess < fold.layers_.size() && fold.layers_[guess].layer == layer) return fold.layers_[guess];
    const auto [found, added] = places.emplace(layer, fold.layers_.size());
    if (added) fold.layers_.emplace_back().layer = layer;
    return fold.layers_[found->second];
  };
  for (const auto& [rank, contribution] : step.ranks) {
    size_t guess = 0, reference = 0;
    for (const StepContribution::Observed& observed : contribution->observed) {
      const bool counted = observed.layer->statistics->config().kind == ObserverKind::kReferenceHistogram;
      const std::vector<uint64_t>* const counts =
          counted && contribution->counts.has_value() ? &(*contribution->counts)[reference] : nullptr;
      if (counted) ++reference;
      absl::Status status = AddObserved(observed, counts, step, &place_of(observed.layer, guess++));
      if (!status.ok()) return status;
    }
    for (const StepContribution::Gradients& gradients : contribution->gradients) {
      AddGradients(gradients, contribution->weight, &place_of(gradients.layer, guess++));
    }
  }
  return fold;
}

absl::Status StepFold::AddObserved(const StepContribution::Observed& observed, const std::vector<uint64_t>* counts,
                                   const OpenStep& step, Reduced* reduced) {
  const Layer& layer = *observed.layer;
  if (absl::Status status = AddRanges(layer, observed.ranges, &reduced->step.ranges); !status.ok()) return status;
  if (observed.histogram.has_value()) {
    if (!reduced->histogram.has_value()) {
      reduced->histogram = *observed.histogram;
    } else {
      if (absl::Status status = reduced->histogram->CheckMerge(*observed.histogram); !status.ok()) {
        return LayerError(layer, ReasonOfStatistics(status, v1::ERROR_REASON_OBSERVER_MISMATCH), status);
      }
      reduced->histogram->Merge(*observed.histogram);
    }
  }
  if (layer.statistics->config().kind != ObserverKind::kReferenceHistogram) return absl::OkStatus();
  reduced->passed_over = step.passed_over.count(&layer) != 0;
  reduced->step.grid = step.GridOf(&layer);
  reduced->step.counts.resize(reduced->step.grid.bins);
  if (counts == nullptr) return absl::OkStatus();
  for (size_t i = 0; i < counts->size(); ++i) {
    // No more than the layer's values, whose sum did not overflow.
    reduced->step.counts[i] += (*counts)[i];
  }
  return absl::OkStatus();
}

void StepFold::AddGradients(const StepContribution::Gradients& gradients, double weight, Reduced* reduced) {
  reduced->gradients.resize(gradients.sums.size());
  for (size_t i = 0; i < gradients.sums.size(); ++i) {
    reduced->gradients[i].scale += gradients.sums[i].scale;
    reduced->gradients[i].zero_point += gradients.sums[i].zero_point;
  }
  const bool replicated = gradients.layer->statistics->config().learned->replicated;
  reduced->elements = replicated ? std::max(reduced->elements, gradients.elements)
                                 : SaturatingAdd(reduced->elements, gradients.elements);
  reduced->weight += weight;
}

std::vector<LearnedGradient> StepFold::Average(const Reduced& reduced) {
  std::vector<LearnedGradient> average = reduced.gradients;
  for (LearnedGradient& gradient : average) {
    gradient.scale /= reduced.weight;
    gradient.zero_point /= reduced.weight;
  }
  return average;
}

absl::Status StepFold::MakeGrids(OpenStep* step) const {
  for (const Reduced& reduced : layers_) {
    const Layer& layer = *reduced.layer;
    if (layer.statistics->config().kind != ObserverKind::kReferenceHistogram) continue;
    if (!layer.enabled) {
      step->passed_over.insert(&layer);
      continue;
    }
    const absl::StatusOr<ReferenceGrid> grid = layer.statistics->NextGrid(reduced.step.ranges.front());
    if (!grid.ok()) return LayerError(layer, GetReason(ErrorOfStep(grid.status())), grid.status());
    step->grids.emplace(&layer, *grid);
  }
  return absl::OkStatus();
}

absl::Status StepFold::Check() const {
  for (const Reduced& reduced : layers_) {
    const Layer& layer = *reduced.layer;
    if (!layer.enabled || reduced.passed_over) continue;
    if (!reduced.gradients.empty()) {
      const absl::Status status = CheckGradients(*layer.statistics, Average(reduced), reduced.elements);
      if (!status.ok()) {
        return LayerError(layer,
                          status.code() == absl::StatusCode::kFailedPrecondition
                              ? v1::ERROR_REASON_LEARNED_NOT_INITIALIZED
                              : v1::ERROR_REASON_STATISTICS_INCONSISTENT,
                          status);
      }
    }
    if (reduced.step.ranges.empty()) continue;
    if (DependsOnOrder(layer.statistics->config().kind)) {
      const absl::Status status = layer.statistics->CheckStep(reduced.step);
      if (!status.ok()) return LayerError(layer, GetReason(ErrorOfStep(status)), status);
      continue;
    }
    const absl::Status status = layer.statistics->CheckMerge(Merged(reduced));
    if (!status.ok()) return LayerError(layer, ReasonOfStatistics(status, v1::ERROR_REASON_OBSERVER_MISMATCH), status);
  }
  return absl::OkStatus();
}

LayerStatistics StepFold::Merged(const Reduced& reduced) {
  if (reduced.histogram.has_value()) return *reduced.histogram;
  LayerStatistics merged(reduced.layer->statistics->config());
  merged.SetChannelCount(reduced.step.ranges.size()).IgnoreError();  // it has none yet
  for (size_t i = 0; i < reduced.step.ranges.size(); ++i) merged.mutable_channels()[i].range = reduced.step.ranges[i];
  return merged;
}

std::shared_ptr<const FoldedStep> StepFold::Apply(const OpenStep& step, uint64_t world_epoch,
                                                  std::vector<Layer*>* changed, uint64_t* ignored) const {
  auto folded = std::make_shared<FoldedStep>();
  folded->step = step.step;
  folded->world_epoch = world_epoch;
  folded->ranks.resize(step.world_size);
  for (const auto& [rank, contribution] : step.ranks) folded->ranks[rank] = true;
  folded->layers.reserve(layers_.size());
  for (const Reduced& reduced : layers_) {
    Layer* const layer = reduced.layer;
    LayerStatistics* const statistics = layer->statistics.Mutable();
    if (!layer->enabled || reduced.passed_over) {
      for (const Range& range : reduced.step.ranges) *ignored = SaturatingAdd(*ignored, range.values());
    } else {
      changed->push_back(layer);
      // Of a learned layer some ranks may have given statistics, and others gradients.
      if (!reduced.gradients.empty()) ApplyGradients(statistics, Average(reduced), reduced.elements);
      if (DependsOnOrder(statistics->config().kind)) {
        statistics->FoldStep(reduced.step);
      } else if (!reduced.step.ranges.empty()) {
        statistics->Merge(Merged(reduced));
      }
      // Without a finite value it stays without parameters.
      if (statistics->config().kind == ObserverKind::kLearned && !IsInitialized(*statistics)) {
        InitializeLearned(statistics).IgnoreError();
      }
    }
    FoldedStep::LayerResult& result = folded->layers.emplace_back();
    result.name = layer->name;
    for (size_t i = 0; i < reduced.step.ranges.size(); ++i) {
      const bool known = i < statistics->channels().size();
      result.rows.push_back(
          ResultRow(reduced.step.ranges[i], known ? statistics->channels()[i].ObservedRange() : Range()));
    }
    result.params = MinMaxParams(*statistics, layer->quant_spec);
    // Also when nobody sent gradients: a rank that repeats the step may.
    if (!IsInitialized(*statistics)) continue;
    for (const ChannelStatistics& channel : statistics->channels()) {
      result.learned_zero_point.push_back(channel.learned->zero_point);
    }
  }
  return folded;
}

}  // namespace calib::server
