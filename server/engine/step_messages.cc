#include "server/engine/step_messages.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "proto/codec/error.h"

namespace calib::server {
namespace {

// The layers of a step by name. Layers mostly come in the order in which they were folded, so that the index that finds
// others is rarely made.
class ResultFinder {
 public:
  explicit ResultFinder(const FoldedStep& folded) : layers_(folded.layers) {}

  const FoldedStep::LayerResult* Find(absl::string_view name) {
    if (next_ < layers_.size() && layers_[next_].name == name) return &layers_[next_++];
    if (places_.empty()) {
      for (size_t i = 0; i < layers_.size(); ++i) places_.emplace(layers_[i].name, i);
    }
    const auto found = places_.find(std::string_view(name.data(), name.size()));
    if (found == places_.end()) return nullptr;
    next_ = found->second + 1;
    return &layers_[found->second];
  }

 private:
  const std::vector<FoldedStep::LayerResult>& layers_;
  size_t next_ = 0;
  std::unordered_map<std::string_view, size_t> places_;
};

}  // namespace

std::vector<AnsweredLayer> AnsweredLayers(const StepContribution& contribution) {
  std::vector<AnsweredLayer> layers;
  layers.reserve(contribution.observed.size() + contribution.gradients.size());
  for (const auto& observed : contribution.observed) layers.push_back({observed.layer->name, observed.ranges.size()});
  for (const auto& gradients : contribution.gradients) layers.push_back({gradients.layer->name, 0});
  return layers;
}

StepMessage MakeStepResult(const FoldedStep& folded, absl::Span<const AnsweredLayer> layers, bool counted) {
  auto response = std::make_shared<v1::ObserveResponse>();
  v1::StepResult* const result = response->mutable_step_result();
  result->set_step(folded.step);
  result->set_world_epoch(folded.world_epoch);
  result->set_ranks(static_cast<uint32_t>(std::count(folded.ranks.begin(), folded.ranks.end(), true)));
  result->set_world_size(static_cast<uint32_t>(folded.ranks.size()));
  result->set_counted(counted);
  ResultFinder finder(folded);
  bool one_each = true;
  for (size_t i = 0; i < layers.size(); ++i) {
    const FoldedStep::LayerResult* const found = finder.Find(layers[i].name);
    for (size_t row = 0; row < layers[i].rows; ++row) {
      const FoldedStep::Row values =
          found != nullptr && row < found->rows.size() ? found->rows[row] : FoldedStep::Row();
      result->add_step_min(values.step_min);
      result->add_step_max(values.step_max);
      result->add_min(values.min);
      result->add_max(values.max);
    }
    const size_t params = found == nullptr ? 0 : found->params.size();
    one_each = one_each && params == 1;
    result->add_params(static_cast<uint32_t>(params));
    for (size_t k = 0; k < params; ++k) {
      result->add_scale(found->params[k].scale);
      result->add_zero_point(found->params[k].zero_point);
      if (layers[i].rows > 0) continue;
      result->add_learned_zero_point(k < found->learned_zero_point.size()
                                         ? found->learned_zero_point[k]
                                         : static_cast<float>(found->params[k].zero_point));
    }
  }
  if (one_each) result->clear_params();
  return response;
}

StepMessage MakeStepGrids(const OpenStep& step, const StepContribution& contribution, uint64_t world_epoch) {
  auto response = std::make_shared<v1::ObserveResponse>();
  v1::StepGrids* const grids = response->mutable_step_grids();
  grids->set_step(step.step);
  grids->set_world_epoch(world_epoch);
  for (const StepContribution::Observed& observed : contribution.observed) {
    if (observed.layer->statistics->config().kind != ObserverKind::kReferenceHistogram) continue;
    const ReferenceGrid grid = step.GridOf(observed.layer);
    v1::StepGrid* const message = grids->add_grid();
    message->set_low(grid.low);
    message->set_high(grid.high);
    message->set_bins(grid.bins);
  }
  return response;
}

StepMessage MakeStepRefusal(uint64_t step, const absl::Status& status) {
  auto response = std::make_shared<v1::ObserveResponse>();
  v1::Refusal* const refusal = response->mutable_refusal();
  refusal->set_step(step);
  refusal->set_code(static_cast<int32_t>(status.code()));
  refusal->set_message(std::string(status.message()));
  if (std::optional<v1::ErrorInfo> info = GetErrorInfo(status); info.has_value()) {
    *refusal->mutable_info() = *std::move(info);
  }
  return response;
}

StepMessage MakeWorld(const StepsRecord& record) {
  auto response = std::make_shared<v1::ObserveResponse>();
  response->mutable_world()->set_epoch(record.world_epoch);
  response->mutable_world()->set_size(record.world_size);
  return response;
}

}  // namespace calib::server
