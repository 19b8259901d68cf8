#include "server/engine/session_state.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/base/kill_point.h"
#include "server/engine/session.h"
#include "server/engine/state_merge.h"
#include "server/engine/validate.h"

// State files: what goes into one, and what comes out of one.
namespace calib::server {
namespace {

absl::Status Overlap(const std::string& session, const SessionState& state, const std::string& uid,
                     absl::string_view why) {
  return MakeError(v1::ERROR_REASON_STATE_OVERLAPS,
                   absl::StrCat("the state file, of session ", Quoted(state.session), ", has values of session ", uid,
                                ", which session ", Quoted(session), " ", why,
                                ": they would be counted twice; import into a new session files that do not overlap"),
                   {{"session", session}, {"uid", uid}});
}

// A value of both rising sequences.
const std::string* FindCommon(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  for (auto i = a.begin(), j = b.begin(); i != a.end() && j != b.end();) {
    if (*i == *j) return &*i;
    ++(*i < *j ? i : j);
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<StateCut> Session::CutState() {
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  StateCut cut{.record = record_, .incomplete = incomplete_};
  cut.layers.reserve(layers_.size());
  for (auto& [name, layer] : layers_) {
    if (layer.statistics->empty()) continue;
    cut.layers.push_back({name, layer.statistics.Freeze()});
    cut.bytes += layer.bytes;
  }
  return cut;
}

absl::StatusOr<StateMerge> Session::MergeState(SessionState state, bool skip_unmergeable) {
  StateMerge merge;
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  merge.already_merged = std::any_of(record_.imports.begin(), record_.imports.end(),
                                     [&](const ImportedState& known) { return known.digest == state.digest; });
  if (merge.already_merged) return merge;
  if (absl::Status status = CheckState(state); !status.ok()) return status;
  size_t new_layers = 0;
  std::vector<std::pair<std::string, LayerStatistics>> layers;
  for (auto& [name, statistics] : state.layers) {
    const absl::Status status = CheckStateLayer(name, statistics, config_.rules.Match(name));
    if (status.ok()) {
      if (!layers_.contains(name)) ++new_layers;
      layers.emplace_back(name, std::move(statistics));
    } else if (skip_unmergeable && GetReason(status) != v1::ERROR_REASON_LIMIT_EXCEEDED) {
      merge.left_out.push_back(name);
    } else {
      return status;
    }
  }
  if (layers.empty()) return merge;
  if (absl::Status status = CheckStateLimits(state, layers.size(), new_layers); !status.ok()) return status;

  // Nothing from here on can fail.
  ReachKillPoint(kill_points::kApplyBegin);
  ++version_;
  const std::string id = absl::StrCat(kImportWorkerPrefix, state.digest);
  const auto [ordinal, added] = worker_ordinals_.emplace(id, static_cast<uint32_t>(workers_.size()));
  if (added) workers_.emplace_back().record = {.id = id, .display_name = state.session, .ordinal = ordinal->second};
  Worker& worker = workers_[ordinal->second];
  ++worker.record.applied;
  worker.version = version_;
  for (auto& [name, statistics] : layers) {
    for (const ChannelStatistics& channel : statistics.channels()) {
      merge.values = SaturatingAdd(merge.values, channel.range.values());
    }
    MergeStateLayer(ordinal->second, name, std::move(statistics));
  }
  merge.layers = layers.size();
  values_ = SaturatingAdd(values_, merge.values);
  ++record_.updates_applied;
  incomplete_ = incomplete_ || state.incomplete;
  record_.imports.push_back({std::move(state.digest), std::move(state.lineage), state.incomplete});
  counters_->updates_applied += 1;
  counters_->values_observed += merge.values;
  ReachKillPoint(kill_points::kApplyEnd);
  return merge;
}

absl::Status Session::CheckState(const SessionState& state) const {
  if (record_.sealed) return SealedError();
  if (std::binary_search(state.lineage.begin(), state.lineage.end(), record_.uid)) {
    return Overlap(name_, state, record_.uid, "is itself");
  }
  for (const ImportedState& known : record_.imports) {
    if (const std::string* const uid = FindCommon(known.lineage, state.lineage); uid != nullptr) {
      return Overlap(name_, state, *uid, absl::StrCat("has by the import of state ", known.digest));
    }
  }
  if (steps_.has_value() && steps_->open_steps() > 0) {
    return MakeError(v1::ERROR_REASON_SYNCHRONOUS_STEPS_OPEN,
                     absl::StrCat("session ", Quoted(name_), " has ", steps_->open_steps(),
                                  " synchronous steps open; import once its ranks have completed them"),
                     {{"session", name_}});
  }
  return absl::OkStatus();
}

absl::Status Session::CheckStateLayer(const std::string& name, const LayerStatistics& state,
                                      const std::optional<ObserverConfig>& observer) const {
  const auto refuse = [&](v1::ErrorReason reason, absl::string_view what) {
    return MakeError(reason, absl::StrCat("layer ", Quoted(name), ": ", what), {{"layer", name}, {"session", name_}});
  };
  if (!observer.has_value()) {
    return refuse(v1::ERROR_REASON_LAYER_SKIPPED, absl::StrCat("the rules of session ", Quoted(name_), " skip it"));
  }
  if (!IsEnabled(name)) {
    return refuse(v1::ERROR_REASON_STATE_UNMERGEABLE, absl::StrCat("it is disabled in session ", Quoted(name_),
                                                                   ", so its values would be lost; enable it"));
  }
  if (state.channels().size() > limits_.max_channels) {
    return LimitExceeded(absl::StrCat("layer ", Quoted(name), " has ", state.channels().size(), " channels"),
                         "--max-channels", limits_.max_channels, name);
  }
  const auto found = layers_.find(name);
  const LayerStatistics empty(*observer);
  const absl::Status status = CheckStateMerge(found != layers_.end() ? *found->second.statistics : empty, state);
  return status.ok() ? status : refuse(GetReason(status), status.message());
}

absl::Status Session::CheckStateLimits(const SessionState& state, size_t layers, size_t new_layers) const {
  if (layers_.size() + new_layers > limits_.max_layers) {
    return LimitExceeded(
        absl::StrCat("session ", Quoted(name_), " would have ", layers_.size() + new_layers, " layers"), "--max-layers",
        limits_.max_layers);
  }
  if (workers_.size() >= limits_.max_workers) {
    return LimitExceeded(absl::StrCat("session ", Quoted(name_), " would have ", workers_.size() + 1, " workers"),
                         "--max-workers", limits_.max_workers);
  }
  size_t lineage = state.lineage.size();
  for (const ImportedState& known : record_.imports) lineage += known.lineage.size();
  if (lineage > limits_.max_lineage) {
    return LimitExceeded(absl::StrCat("session ", Quoted(name_), " would hold values of ", lineage, " others"),
                         "--max-lineage", limits_.max_lineage);
  }
  return layers > 0 ? CheckStateBytes() : absl::OkStatus();
}

void Session::MergeStateLayer(uint32_t worker, const std::string& name, LayerStatistics state) {
  auto found = layers_.find(name);
  if (found == layers_.end()) {
    const ObserverRules::Rule& rule = config_.rules.rules()[config_.rules.Find(name)];
    AddLayer(name, SharedStatistics(LayerStatistics(*rule.observer)), rule.quant_spec);
    found = layers_.find(name);
  }
  Layer* const layer = &found->second;
  server::MergeState(std::move(state), layer->statistics.Mutable());
  layer->version = version_;
  if (layer->contributors.size() <= worker) layer->contributors.resize(workers_.size());
  layer->contributors[worker] = true;
  Account(layer);
}

}  // namespace calib::server
