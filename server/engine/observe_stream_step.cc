#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "quant/learned_observer.h"
#include "server/engine/engine.h"
#include "server/engine/observe_stream.h"
#include "server/engine/validate.h"

// Synchronous steps.
namespace calib::server {
namespace {

// As which kind a layer's rows are read: a contribution has ranges of what is counted later.
ObserverKind KindOfRows(ObserverKind kind) {
  switch (kind) {
    case ObserverKind::kReferenceHistogram:
      return ObserverKind::kMinMax;
    case ObserverKind::kLearned:
      return ObserverKind::kHistogram;
    default:
      return kind;
  }
}

absl::Status Inconsistent(absl::string_view message) {
  return MakeError(v1::ERROR_REASON_STATISTICS_INCONSISTENT, message);
}

}  // namespace

absl::Status ObserveStream::HandleContribution(const v1::StepContribution& contribution) {
  StepUpdate update{.world_epoch = contribution.world_epoch(), .step = contribution.step()};
  if (absl::Status status = DecodeObserved(contribution.statistics(), &update); !status.ok()) return status;
  if (absl::Status status = DecodeGradients(contribution.gradients(), contribution.statistics().layer(), &update);
      !status.ok())
    return status;
  update.contribution.bytes = update.contribution.MemoryBytes();
  absl::StatusOr<Session::StepOutcome> outcome =
      session_->Contribute(sender(), std::move(update), engine_->options().clock->Elapsed());
  if (!outcome.ok()) return outcome.status();
  engine_->counters().statistics_bytes += contribution.ByteSizeLong();
  engine_->NoteStep(session_, *std::move(outcome));
  return absl::OkStatus();
}

absl::Status ObserveStream::HandleCounts(const v1::StepCounts& counts) {
  absl::StatusOr<Session::StepOutcome> outcome =
      session_->TakeCounts(sender(), counts, engine_->options().clock->Elapsed());
  if (!outcome.ok()) return outcome.status();
  engine_->NoteStep(session_, *std::move(outcome));
  return absl::OkStatus();
}

absl::Status ObserveStream::DecodeObserved(const v1::StatisticsBatch& batch, StepUpdate* update) {
  for (const uint32_t handle : batch.layer()) {
    const auto binding = FindBinding(handle);
    if (!binding.ok()) return binding.status();
    if ((*binding)->observer->kind == ObserverKind::kPassive) return PassiveTakesNoData(**binding);
  }
  const absl::Status decoded =
      reader_.Decode(batch, [&](uint32_t handle) { return KindOfRows(bindings_[handle].observer->kind); });
  if (!decoded.ok()) return NameLayer(decoded);
  update->bindings.reserve(reader_.layers().size());
  update->contribution.observed.reserve(reader_.layers().size());
  for (const LayerView& layer : reader_.layers()) {
    LayerBinding* const binding = &bindings_[layer.handle];
    const ObserverConfig& observer = *binding->observer;
    const auto annotate = [&](v1::ErrorReason reason, absl::string_view message) {
      return MakeError(reason, absl::StrCat("layer ", Quoted(binding->name), ": ", message),
                       {{"layer", binding->name}});
    };
    StepContribution::Observed& observed = update->contribution.observed.emplace_back();
    update->bindings.push_back(binding);
    if (layer.rows.size() > 1 && !observer.channel_axis.has_value()) {
      return annotate(v1::ERROR_REASON_OBSERVER_MISMATCH,
                      absl::StrCat("it is observed per tensor and came with ", layer.rows.size(), " rows; send one"));
    }
    update->contribution.has_references |= observer.kind == ObserverKind::kReferenceHistogram;
    observed.ranges.reserve(layer.rows.size());
    for (const RowView& row : layer.rows) observed.ranges.push_back(row.range);
    if (KindOfRows(observer.kind) != ObserverKind::kHistogram) continue;
    observed.histogram.emplace(observer);
    if (absl::Status status = CheckMergeRows(layer, *observed.histogram); !status.ok()) {
      return annotate(GetReason(status), status.message());
    }
    MergeRows(layer, &*observed.histogram);
  }
  return absl::OkStatus();
}

absl::Status ObserveStream::DecodeGradients(const v1::GradientBatch& batch,
                                            const google::protobuf::RepeatedField<uint32_t>& observed,
                                            StepUpdate* update) {
  const int layers = batch.layer_size();
  if (batch.channels_size() != 0 && batch.channels_size() != layers) {
    return Inconsistent(absl::StrCat("gradients: `channels` has ", batch.channels_size(), " entries for ", layers,
                                     " layers; give one each, or none"));
  }
  if (batch.elements_size() != layers) {
    return Inconsistent(
        absl::StrCat("gradients: `elements` has ", batch.elements_size(), " entries for ", layers, " layers"));
  }
  // Sums of weights stay finite, and above 0.
  if (batch.weight() != 0 && !(batch.weight() >= 0x1p-64 && batch.weight() <= 0x1p64)) {
    return Inconsistent(absl::StrCat("gradients: weight ", batch.weight(), " is not within 2^-64 and 2^64"));
  }
  update->contribution.weight = batch.weight() == 0 ? 1 : batch.weight();
  uint64_t rows = 0;
  for (int i = 0; i < layers; ++i) rows += batch.channels_size() == 0 ? 1 : batch.channels(i);
  if (static_cast<uint64_t>(batch.scale_size()) != rows ||
      (batch.zero_point_size() != 0 && static_cast<uint64_t>(batch.zero_point_size()) != rows)) {
    return Inconsistent(absl::StrCat("gradients: `scale` has ", batch.scale_size(), " entries and `zero_point` ",
                                     batch.zero_point_size(), " for ", rows, " rows"));
  }
  int row = 0;
  for (int i = 0; i < layers; ++i) {
    const absl::StatusOr<LayerBinding*> binding = FindBinding(batch.layer(i));
    if (!binding.ok()) return binding.status();
    const auto refuse = [&](v1::ErrorReason reason, absl::string_view message) {
      return MakeError(reason, absl::StrCat("layer ", Quoted((*binding)->name), ": ", message),
                       {{"layer", (*binding)->name}});
    };
    if ((*binding)->observer->kind != ObserverKind::kLearned) {
      return refuse(v1::ERROR_REASON_OBSERVER_MISMATCH,
                    absl::StrCat("its observer is ", ObserverKindName((*binding)->observer->kind),
                                 " and takes no gradients; only a learned one does"));
    }
    if (i > 0 && batch.layer(i) <= batch.layer(i - 1)) {
      return refuse(v1::ERROR_REASON_STATISTICS_INCONSISTENT, "gradients: handles must rise");
    }
    if (std::binary_search(observed.begin(), observed.end(), batch.layer(i))) {
      return refuse(v1::ERROR_REASON_STATISTICS_INCONSISTENT,
                    "came with statistics and gradients in one step; send one of them");
    }
    StepContribution::Gradients& gradients = update->contribution.gradients.emplace_back();
    update->bindings.push_back(*binding);
    gradients.elements = batch.elements(i);
    const uint32_t channels = batch.channels_size() == 0 ? 1 : batch.channels(i);
    if (channels == 0) return refuse(v1::ERROR_REASON_STATISTICS_INCONSISTENT, "gradients: has no channel");
    if (channels > 1 && !(*binding)->observer->channel_axis.has_value()) {
      return refuse(v1::ERROR_REASON_OBSERVER_MISMATCH,
                    absl::StrCat("it is learned per tensor and came with ", channels, " gradients; send one"));
    }
    for (uint32_t k = 0; k < channels; ++k, ++row) {
      gradients.sums.push_back({batch.scale(row), batch.zero_point_size() == 0 ? 0 : batch.zero_point(row)});
    }
  }
  return absl::OkStatus();
}

}  // namespace calib::server
