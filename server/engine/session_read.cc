#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/session.h"
#include "server/engine/validate.h"

namespace calib::server {

Session::Summary Session::GetSummary() const {
  MutexLock lock(&mutex_);
  Summary summary{.record = record_,
                  .layer_count = layers_.size(),
                  .worker_count = workers_.size(),
                  .values = values_,
                  .state_bytes = state_bytes_,
                  .version = version_,
                  .deleted = deleted_,
                  .incomplete = incomplete_,
                  .durable_step = durable_step_};
  if (!steps_.has_value()) return summary;
  summary.record.steps = steps_->record();
  summary.open_steps = steps_->open_steps();
  if (summary.open_steps == 0) return summary;
  summary.missing_ranks = steps_->Lowest()->Missing();
  summary.open_since = steps_->OpenSince();
  return summary;
}

bool Session::IsIncomplete() const {
  MutexLock lock(&mutex_);
  return incomplete_;
}

bool Session::IsIdleSince(absl::Time time) const {
  MutexLock lock(&mutex_);
  return version_ == durable_version_ && record_.update_time <= time &&
         std::none_of(workers_.begin(), workers_.end(), [](const Worker& w) { return w.listener != nullptr; });
}

std::vector<Session::WorkerSummary> Session::GetWorkers() const {
  MutexLock lock(&mutex_);
  std::vector<WorkerSummary> workers;
  workers.reserve(workers_.size());
  for (const auto& [id, ordinal] : worker_ordinals_) {
    const Worker& worker = workers_[ordinal];
    workers.push_back({worker.record, worker.durable, worker.listener != nullptr, worker.rank, worker.step});
  }
  return workers;
}

std::vector<std::string> Session::ListLayers(const std::string& pattern, const std::string& after, size_t limit,
                                             uint64_t since_version) const {
  MutexLock lock(&mutex_);
  std::vector<std::string> names;
  for (auto layer = layers_.upper_bound(after); layer != layers_.end() && names.size() < limit; ++layer) {
    if (layer->second.version > since_version && GlobMatch(pattern, layer->first)) names.push_back(layer->first);
  }
  return names;
}

absl::StatusOr<Session::LayerSnapshot> Session::GetLayer(const std::string& name) const {
  MutexLock lock(&mutex_);
  if (deleted_) return DeletedError();
  const auto found = layers_.find(name);
  if (found == layers_.end()) {
    return MakeError(v1::ERROR_REASON_LAYER_NOT_FOUND,
                     absl::StrCat("session ", Quoted(name_), " has no layer ", Quoted(name)), {{"session", name_}});
  }
  const Layer& layer = found->second;
  return LayerSnapshot{
      .name = layer.name,
      .statistics = *layer.statistics,
      .enabled = layer.enabled,
      .workers = static_cast<uint64_t>(std::count(layer.contributors.begin(), layer.contributors.end(), true)),
      .version = layer.version,
      .quant_spec = layer.quant_spec};
}

}  // namespace calib::server
