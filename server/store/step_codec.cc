#include "server/store/step_codec.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace calib::server {
namespace {

std::string EncodeRanks(const std::vector<bool>& ranks) {
  std::string bits((ranks.size() + 7) / 8, '\0');
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank]) bits[rank / 8] = static_cast<char>(bits[rank / 8] | 1 << rank % 8);
  }
  return bits;
}

absl::StatusOr<std::vector<bool>> DecodeRanks(uint32_t world_size, const std::string& bits) {
  if (bits.size() != (uint64_t{world_size} + 7) / 8) {
    return absl::DataLossError(absl::StrCat(bits.size(), " bytes are no bits of ", world_size, " ranks"));
  }
  std::vector<bool> ranks(world_size);
  for (size_t rank = 0; rank < ranks.size(); ++rank) ranks[rank] = (bits[rank / 8] >> rank % 8 & 1) != 0;
  return ranks;
}

void EncodeResult(const FoldedStep::LayerResult& layer, store::v1::StepResultRecord* record) {
  record->set_name(layer.name);
  for (const FoldedStep::Row& row : layer.rows) {
    record->add_step_min(row.step_min);
    record->add_step_max(row.step_max);
    record->add_min(row.min);
    record->add_max(row.max);
  }
  for (const QParams& params : layer.params) {
    record->add_scale(params.scale);
    record->add_zero_point(params.zero_point);
  }
  record->mutable_learned_zero_point()->Add(layer.learned_zero_point.begin(), layer.learned_zero_point.end());
}

absl::StatusOr<FoldedStep::LayerResult> DecodeResult(const store::v1::StepResultRecord& record) {
  const int rows = record.step_min_size();
  const int params = record.scale_size();
  if (record.step_max_size() != rows || record.min_size() != rows || record.max_size() != rows ||
      record.zero_point_size() != params ||
      (record.learned_zero_point_size() != params && !record.learned_zero_point().empty())) {
    return absl::DataLossError("the columns of a step's layer have different lengths");
  }
  FoldedStep::LayerResult layer;
  layer.name = record.name();
  layer.rows.reserve(rows);
  for (int i = 0; i < rows; ++i) {
    layer.rows.push_back({record.step_min(i), record.step_max(i), record.min(i), record.max(i)});
  }
  layer.params.reserve(params);
  for (int i = 0; i < params; ++i) layer.params.push_back({record.scale(i), record.zero_point(i)});
  layer.learned_zero_point.assign(record.learned_zero_point().begin(), record.learned_zero_point().end());
  return layer;
}

absl::StatusOr<std::shared_ptr<const FoldedStep>> DecodeStep(const store::v1::FoldedStepRecord& record) {
  auto step = std::make_shared<FoldedStep>();
  step->step = record.step();
  step->world_epoch = record.world_epoch();
  absl::StatusOr<std::vector<bool>> ranks = DecodeRanks(record.world_size(), record.ranks());
  if (!ranks.ok()) return ranks.status();
  step->ranks = *std::move(ranks);
  step->layers.reserve(record.layers_size());
  for (const store::v1::StepResultRecord& layer : record.layers()) {
    absl::StatusOr<FoldedStep::LayerResult> result = DecodeResult(layer);
    if (!result.ok()) return result.status();
    step->layers.push_back(*std::move(result));
  }
  return step;
}

}  // namespace

store::v1::StepsRecord EncodeSteps(const StepsRecord& steps) {
  store::v1::StepsRecord message;
  message.set_world_epoch(steps.world_epoch);
  message.set_world_size(steps.world_size);
  message.set_folded_step(steps.folded_step);
  message.set_partial_steps(steps.partial_steps);
  message.set_failed_steps(steps.failed_steps);
  message.set_late_contributions(steps.late_contributions);
  message.set_repeated_contributions(steps.repeated_contributions);
  for (const std::shared_ptr<const FoldedStep>& step : steps.kept) {
    store::v1::FoldedStepRecord* const record = message.add_kept();
    record->set_step(step->step);
    record->set_world_epoch(step->world_epoch);
    record->set_world_size(static_cast<uint32_t>(step->ranks.size()));
    record->set_ranks(EncodeRanks(step->ranks));
    for (const FoldedStep::LayerResult& layer : step->layers) EncodeResult(layer, record->add_layers());
  }
  return message;
}

absl::StatusOr<StepsRecord> DecodeSteps(const store::v1::StepsRecord& message) {
  StepsRecord steps;
  steps.world_epoch = message.world_epoch();
  steps.world_size = message.world_size();
  steps.folded_step = message.folded_step();
  steps.partial_steps = message.partial_steps();
  steps.failed_steps = message.failed_steps();
  steps.late_contributions = message.late_contributions();
  steps.repeated_contributions = message.repeated_contributions();
  for (const store::v1::FoldedStepRecord& record : message.kept()) {
    absl::StatusOr<std::shared_ptr<const FoldedStep>> step = DecodeStep(record);
    if (!step.ok()) return step.status();
    if (!steps.kept.empty() && (*step)->step != steps.kept.back()->step + 1) {
      return absl::DataLossError(absl::StrCat("step ", (*step)->step, " is kept after step ", steps.kept.back()->step));
    }
    steps.kept.push_back(*std::move(step));
  }
  return steps;
}

}  // namespace calib::server
