#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/base/kill_point.h"
#include "server/engine/session.h"
#include "server/engine/validate.h"

namespace calib::server {

absl::Status Session::FencedError(const std::string& worker_id) const {
  return MakeError(
      v1::ERROR_REASON_WORKER_FENCED,
      absl::StrCat(
          "a newer stream of worker ", Quoted(worker_id),
          ", or of its rank, took over; stop this one, and give each process a worker id and a rank of its own"),
      {{"session", name_}, {"worker_id", worker_id}});
}

absl::StatusOr<Session::OpenResult> Session::OpenStream(const StreamOpening& opening,
                                                        std::shared_ptr<StreamListener> listener) {
  const std::string& worker_id = opening.worker_id;
  const std::optional<uint32_t> rank = opening.rank;
  Notices fenced;
  OpenResult result;
  {
    MutexLock lock(&mutex_);
    if (deleted_) return DeletedError();
    if (rank.has_value()) {
      if (!steps_.has_value()) return NotSynchronousError();
      if (absl::Status status = steps_->CheckRank(*rank); !status.ok()) return status;
    }
    const auto known = worker_ordinals_.find(worker_id);
    if (known == worker_ordinals_.end()) {
      if (workers_.size() >= limits_.max_workers) {
        return LimitExceeded(absl::StrCat("session ", Quoted(name_), " would have ", workers_.size() + 1, " workers"),
                             "--max-workers", limits_.max_workers);
      }
      result.worker = static_cast<uint32_t>(workers_.size());
      worker_ordinals_.emplace(worker_id, result.worker);
      workers_.emplace_back().record = {.id = worker_id, .ordinal = result.worker};
    } else {
      result.worker = known->second;
    }
    Worker& worker = workers_[result.worker];
    worker.version = ++version_;
    worker.record.display_name = opening.display_name;
    const auto fence = [&, version = version_](Worker* older) {
      ++older->record.incarnation;
      older->version = version;
      if (older->listener == nullptr) return;
      fenced.Add([listener = std::exchange(older->listener, nullptr), error = FencedError(older->record.id)] {
        listener->OnEnd(error);
      });
    };
    fence(&worker);
    if (worker.rank.has_value()) rank_workers_.erase(*worker.rank);
    worker.rank = rank;
    worker.step = 0;
    if (rank.has_value()) {
      const auto [holder, added] = rank_workers_.emplace(*rank, result.worker);
      if (!added) {
        fence(&workers_[holder->second]);
        workers_[holder->second].rank.reset();
        holder->second = result.worker;
      }
    }
    worker.listener = std::move(listener);
    if (opening.durable > worker.record.applied) {
      worker.record.lost = std::max(worker.record.lost, opening.durable);
      incomplete_ = true;
    }
    result.incarnation = worker.record.incarnation;
    result.progress = ProgressOf(worker);
    if (steps_.has_value()) {
      result.world_epoch = steps_->record().world_epoch;
      result.world_size = steps_->record().world_size;
    }
  }
  fenced.Deliver();
  return result;
}

void Session::CloseStream(uint32_t worker, uint64_t incarnation) {
  std::shared_ptr<StreamListener> listener;  // may be freed by this, without the lock
  MutexLock lock(&mutex_);
  if (workers_[worker].record.incarnation == incarnation) listener.swap(workers_[worker].listener);
}

absl::StatusOr<Session::Sequencing> Session::Sequence(uint32_t worker, uint64_t incarnation, uint64_t first,
                                                      uint64_t last) const {
  if (deleted_) return DeletedError();
  const WorkerRecord& record = workers_[worker].record;
  if (record.incarnation != incarnation) return FencedError(record.id);
  if (first == 0 || last < first) {
    return InvalidField(first == 0 ? "update.first" : "update.last",
                        absl::StrCat("[", first, ", ", last, "]: first must be at least 1 and last at least first"));
  }
  if (last <= record.applied) return Sequencing::kRepeated;
  if (record_.sealed) return SealedError();
  const uint64_t expected = record.applied + 1;
  if (first == expected) return Sequencing::kNext;
  const bool gap = first > expected;
  return MakeError(gap ? v1::ERROR_REASON_SEQUENCE_GAP : v1::ERROR_REASON_SEQUENCE_OVERLAP,
                   absl::StrCat("update [", first, ", ", last, "] of worker ", Quoted(record.id),
                                gap ? " leaves out " : " repeats a part of what was applied; expected ", "update ",
                                expected, "; open a new stream and resume from its Welcome"),
                   {{"expected", absl::StrCat(expected)}, {"worker_id", record.id}});
}

absl::StatusOr<Session::Sequencing> Session::CheckSequence(uint32_t worker, uint64_t incarnation, uint64_t first,
                                                           uint64_t last) const {
  MutexLock lock(&mutex_);
  return Sequence(worker, incarnation, first, last);
}

absl::StatusOr<Session::ApplyResult> Session::Apply(uint32_t worker, uint64_t incarnation,
                                                    const DecodedUpdate& update) {
  MutexLock lock(&mutex_);
  const absl::StatusOr<Sequencing> sequencing = Sequence(worker, incarnation, update.first, update.last);
  if (!sequencing.ok()) return sequencing.status();
  ApplyResult result{.sequencing = *sequencing, .bytes_since_cut = bytes_since_cut_};
  if (*sequencing == Sequencing::kRepeated) return result;
  if (absl::Status status = CheckRows(update); !status.ok()) return status;

  // Nothing from here on can fail.
  ReachKillPoint(kill_points::kApplyBegin);
  ++version_;
  uint64_t values = 0;
  for (const UpdateRows& rows : update.layers) {
    if (IsIgnored(rows.binding)) {
      result.values_ignored = SaturatingAdd(result.values_ignored, rows.Values());
    } else {
      MergeLayer(worker, rows);
      values = SaturatingAdd(values, rows.Values());
    }
  }
  values_ = SaturatingAdd(values_, values);
  record_.values_ignored = SaturatingAdd(record_.values_ignored, result.values_ignored);
  ++record_.updates_applied;
  workers_[worker].record.applied = update.last;
  workers_[worker].version = version_;
  bytes_since_cut_ += update.bytes;
  result.bytes_since_cut = bytes_since_cut_;
  counters_->updates_applied += 1;
  counters_->values_observed += values;
  counters_->values_ignored += result.values_ignored;
  ReachKillPoint(kill_points::kApplyEnd);
  return result;
}

absl::Status Session::CheckRows(const DecodedUpdate& update) {
  size_t new_layers = 0;
  bool merges = false;
  for (const UpdateRows& rows : update.layers) {
    if (IsIgnored(rows.binding)) continue;
    merges = true;
    if (rows.binding->layer == nullptr && layers_.size() + ++new_layers > limits_.max_layers) {
      return LimitExceeded(
          absl::StrCat("session ", Quoted(name_), " would have ", layers_.size() + new_layers, " layers"),
          "--max-layers", limits_.max_layers, rows.binding->name);
    }
    if (rows.channels() > limits_.max_channels) {
      return LimitExceeded(absl::StrCat("layer ", Quoted(rows.binding->name), " has ", rows.channels(), " channels"),
                           "--max-channels", limits_.max_channels, rows.binding->name);
    }
    if (absl::Status status = rows.Check(); !status.ok()) return status;
  }
  return merges ? CheckStateBytes() : absl::OkStatus();
}

absl::Status Session::CheckStateBytes() const {
  const int64_t state_bytes = counters_->state_bytes;
  if (state_bytes < 0 || static_cast<uint64_t>(state_bytes) < limits_.max_state_bytes) return absl::OkStatus();
  return LimitExceeded(absl::StrCat("the server's statistics take ", state_bytes, " bytes of memory"),
                       "--max-state-bytes", limits_.max_state_bytes);
}

absl::StatusOr<ReferenceGrid> Session::NextGrid(LayerBinding* binding, const Range& step) {
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  if (IsIgnored(binding) || binding->layer == nullptr) return LayerStatistics(*binding->observer).NextGrid(step);
  return binding->layer->statistics->NextGrid(step);
}

void Session::MergeLayer(uint32_t worker, const UpdateRows& rows) {
  LayerBinding* const binding = rows.binding;
  if (binding->layer == nullptr) {
    binding->layer =
        AddLayer(binding->name, SharedStatistics(LayerStatistics(*binding->observer)), binding->quant_spec);
  }
  Layer* const layer = binding->layer;
  rows.MergeInto(layer->statistics.Mutable());
  layer->version = version_;
  if (layer->contributors.size() <= worker) layer->contributors.resize(workers_.size());
  layer->contributors[worker] = true;
  Account(layer);
}

void Session::FindLayer(LayerBinding* binding) {
  if (binding->layer != nullptr) return;
  if (const auto found = layers_.find(binding->name); found != layers_.end()) binding->layer = &found->second;
}

bool Session::IsIgnored(LayerBinding* binding) {
  FindLayer(binding);
  return binding->layer == nullptr ? !IsEnabled(binding->name) : !binding->layer->enabled;
}

Progress Session::GetProgress(uint32_t worker) const {
  MutexLock lock(&mutex_);
  return ProgressOf(workers_[worker]);
}

Progress Session::ProgressOf(const Worker& worker) const {
  return {.applied = worker.record.applied,
          .durable = worker.durable,
          .folded_step = steps_.has_value() ? steps_->record().folded_step : 0,
          .durable_step = durable_step_};
}

}  // namespace calib::server
