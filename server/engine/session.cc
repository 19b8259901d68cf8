#include "server/engine/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "server/engine/validate.h"

namespace calib::server {

Session::Session(SessionCheckpoint checkpoint, Origin origin, const Limits& limits, Counters* counters)
    : name_(checkpoint.session.name), config_(checkpoint.session.config), limits_(limits), counters_(counters) {
  MutexLock lock(&mutex_);
  record_ = std::move(checkpoint.session);
  if (origin == Origin::kLoaded) durable_version_ = cut_version_ = version_;
  workers_.resize(checkpoint.workers.size());
  for (WorkerRecord& record : checkpoint.workers) {
    worker_ordinals_[record.id] = record.ordinal;
    Worker& worker = workers_[record.ordinal];
    worker.version = version_;
    worker.durable = worker.cut_applied = record.applied;
    incomplete_ = incomplete_ || record.lost > 0;
    worker.record = std::move(record);
  }
  for (const ImportedState& import : record_.imports) incomplete_ = incomplete_ || import.incomplete;
  for (LayerRecord& record : checkpoint.layers) {
    const size_t rule = config_.rules.Find(record.name);
    Layer* const layer =
        AddLayer(record.name, SharedStatistics(std::move(record.statistics)),
                 rule < config_.rules.rules().size() ? config_.rules.rules()[rule].quant_spec : QuantSpec());
    layer->contributors.resize(workers_.size());
    for (const uint32_t worker : record.workers) layer->contributors[worker] = true;
    for (const ChannelStatistics& channel : layer->statistics->channels()) {
      values_ = SaturatingAdd(values_, channel.range.values());
    }
    Account(layer);
  }
  if (!config_.synchronous.has_value()) return;
  steps_.emplace(*config_.synchronous, std::move(record_.steps));
  cut_step_ = durable_step_ = steps_->record().folded_step;
  for (const auto& kept : steps_->record().kept) AccountBytes(static_cast<int64_t>(kept->MemoryBytes()));
}

absl::Status Session::Seal(Notices* notices) {
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  if (record_.sealed) return absl::OkStatus();
  record_.sealed = true;
  ++version_;
  if (!steps_.has_value()) return absl::OkStatus();
  for (const OpenStep& open : steps_->DropOpen()) RefuseStep(open, SealedError(), notices);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Session::SetEnabled(const std::string& pattern, bool enabled) {
  if (absl::Status status = CheckPattern("pattern", pattern); !status.ok()) return status;
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  if (record_.sealed) return SealedError();
  // What an earlier one of the same pattern said is said anew, and "*" says it of all.
  std::vector<SessionRecord::Toggle> toggles = record_.toggles;
  std::erase_if(toggles,
                [&](const SessionRecord::Toggle& toggle) { return pattern == "*" || toggle.pattern == pattern; });
  if (toggles.size() >= limits_.max_toggles) {
    return LimitExceeded(absl::StrCat("session ", Quoted(name_), " would have ", toggles.size() + 1,
                                      " patterns that switch observers on or off"),
                         "--max-toggles", limits_.max_toggles);
  }
  toggles.push_back({pattern, enabled});
  record_.toggles = std::move(toggles);
  ++version_;
  uint64_t matches = 0;
  for (auto& [name, layer] : layers_) {
    if (!GlobMatch(pattern, name)) continue;
    layer.enabled = enabled;
    ++matches;
  }
  return matches;
}

absl::Status Session::SetQParams(const std::string& layer, absl::Span<const QParams> params) {
  if (absl::Status status = ValidateLayerName(layer, limits_); !status.ok()) return status;
  if (params.empty()) return InvalidField("scale", "empty; give one scale, or one a channel");
  if (params.size() > limits_.max_channels) {
    return LimitExceeded(absl::StrCat("layer ", Quoted(layer), " would have ", params.size(), " channels"),
                         "--max-channels", limits_.max_channels, layer);
  }
  for (size_t i = 0; i < params.size(); ++i) {
    if (std::isfinite(params[i].scale) && params[i].scale > 0) continue;
    return InvalidField(absl::StrCat("scale[", i, "]"),
                        absl::StrCat(params[i].scale, " is no scale; give a finite number above 0"));
  }
  const ObserverRules& rules = config_.rules;
  const size_t rule = rules.Find(layer);
  if (rule == rules.rules().size() || !rules.rules()[rule].observer.has_value()) {
    return MakeError(v1::ERROR_REASON_LAYER_SKIPPED,
                     absl::StrCat("the rules of session ", Quoted(name_), " skip layer ", Quoted(layer)),
                     {{"layer", layer}, {"session", name_}});
  }
  const ObserverConfig& observer = *rules.rules()[rule].observer;
  if (observer.kind != ObserverKind::kPassive) {
    return MakeError(v1::ERROR_REASON_LAYER_NOT_PASSIVE,
                     absl::StrCat("layer ", Quoted(layer), " has an observer of kind ", ObserverKindName(observer.kind),
                                  "; only a passive one's parameters can be set"),
                     {{"layer", layer}, {"session", name_}});
  }
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  if (record_.sealed) return SealedError();
  auto found = layers_.find(layer);
  if (found == layers_.end() && layers_.size() >= limits_.max_layers) {
    return LimitExceeded(absl::StrCat("session ", Quoted(name_), " would have ", layers_.size() + 1, " layers"),
                         "--max-layers", limits_.max_layers, layer);
  }
  ++version_;
  Layer* const target = found != layers_.end() ? &found->second
                                               : AddLayer(layer, SharedStatistics(LayerStatistics(observer)),
                                                          rules.rules()[rule].quant_spec);
  target->statistics.Mutable()->SetPassive(params);
  target->version = version_;
  Account(target);
  return absl::OkStatus();
}

Notices Session::MarkDeleted() {
  std::map<std::string, Layer> layers;  // freed without the lock
  Notices notices;
  MutexLock lock(&mutex_);
  if (deleted_) return notices;
  deleted_ = true;
  if (steps_.has_value()) steps_->DropOpen();  // their layers are gone
  cut_layers_.clear();
  layers.swap(layers_);
  counters_->layers -= static_cast<int64_t>(layers.size());
  counters_->state_bytes -= static_cast<int64_t>(state_bytes_);
  state_bytes_ = 0;
  for (Worker& worker : workers_) {
    if (worker.listener == nullptr) continue;
    notices.Add([listener = std::move(worker.listener), error = DeletedError()] { listener->OnEnd(error); });
  }
  FailWaiters(DeletedError(), &notices);
  return notices;
}

absl::Status Session::DeletedError() const {
  return MakeError(v1::ERROR_REASON_SESSION_DELETED, absl::StrCat("session ", Quoted(name_), " was deleted; stop"),
                   {{"session", name_}});
}

absl::Status Session::SealedError() const {
  return MakeError(
      v1::ERROR_REASON_SESSION_SEALED,
      absl::StrCat("session ", Quoted(name_), " is sealed, its results are final; create a new one for more data"),
      {{"session", name_}});
}

bool Session::IsEnabled(absl::string_view layer) const {
  const auto toggle = std::find_if(record_.toggles.rbegin(), record_.toggles.rend(),
                                   [&](const SessionRecord::Toggle& t) { return GlobMatch(t.pattern, layer); });
  return toggle == record_.toggles.rend() || toggle->enabled;
}

Layer* Session::AddLayer(const std::string& name, SharedStatistics statistics, const QuantSpec& quant_spec) {
  Layer layer{.name = name,
              .statistics = std::move(statistics),
              .quant_spec = quant_spec,
              .enabled = IsEnabled(name),
              .version = version_};
  counters_->layers += 1;
  return &layers_.emplace(name, std::move(layer)).first->second;
}

void Session::Account(Layer* layer) {
  const size_t bytes = sizeof(*layer) + layer->statistics->MemoryBytes() + 2 * layer->name.capacity() +
                       layer->contributors.capacity() / 8;
  AccountBytes(static_cast<int64_t>(bytes) - static_cast<int64_t>(layer->bytes));
  layer->bytes = bytes;
}

void Session::AccountBytes(int64_t change) {
  if (change == 0) return;
  counters_->state_bytes += change;
  state_bytes_ += static_cast<uint64_t>(change);
}

}  // namespace calib::server
