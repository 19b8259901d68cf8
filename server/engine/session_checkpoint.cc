#include <algorithm>
#include <iterator>
#include <utility>

#include "server/engine/session.h"

namespace calib::server {

std::optional<Session::Cut> Session::TakeCut(absl::Time now) {
  MutexLock lock(&mutex_);
  if (deleted_ || version_ == durable_version_) return std::nullopt;
  bytes_since_cut_ = 0;
  if (cut_version_ != version_) record_.update_time = now;
  cut_version_ = version_;
  Cut cut{.version = version_};
  cut.checkpoint.session = record_;
  if (steps_.has_value()) {
    cut.checkpoint.session.steps = steps_->record();
    cut_step_ = steps_->record().folded_step;
  }
  for (Worker& worker : workers_) {
    if (worker.version <= durable_version_) continue;
    worker.cut_applied = worker.record.applied;
    cut.checkpoint.workers.push_back(worker.record);
  }
  for (auto& [name, layer] : layers_) {
    if (layer.version <= durable_version_) continue;
    LayerRecord& record = cut.checkpoint.layers.emplace_back(LayerRecord{name, layer.statistics.Share(), {}});
    cut_layers_.push_back(&layer);
    cut.bytes += layer.bytes;
    for (uint32_t worker = 0; worker < layer.contributors.size(); ++worker) {
      if (layer.contributors[worker]) record.workers.push_back(worker);
    }
  }
  return cut;
}

Notices Session::MarkDurable(uint64_t version) {
  Notices notices;
  MutexLock lock(&mutex_);
  ReleaseCut();
  durable_version_ = version;
  const bool steps = cut_step_ > durable_step_;
  durable_step_ = cut_step_;
  for (Worker& worker : workers_) {
    const bool updates = worker.cut_applied > worker.durable;
    worker.durable = worker.cut_applied;
    if (!updates && !(steps && worker.rank.has_value())) continue;
    if (worker.listener != nullptr) notices.Add([listener = worker.listener] { listener->OnDurable(); });
  }
  const auto served = std::stable_partition(waiters_.begin(), waiters_.end(),
                                            [&](const Waiter& waiter) { return waiter.version > version; });
  for (auto waiter = served; waiter != waiters_.end(); ++waiter) {
    notices.Add([done = std::move(waiter->done), updates = waiter->updates] { done(updates); });
  }
  waiters_.erase(served, waiters_.end());
  return notices;
}

void Session::MarkNothingDurable() {
  MutexLock lock(&mutex_);
  durable_version_ = 0;
}

Notices Session::MarkFailed(const absl::Status& status) {
  Notices notices;
  MutexLock lock(&mutex_);
  ReleaseCut();
  FailWaiters(status, &notices);
  return notices;
}

void Session::ReleaseCut() {
  for (Layer* const layer : cut_layers_) layer->statistics.Release();
  cut_layers_.clear();
}

void Session::WhenDurable(DurableCallback done) {
  absl::StatusOr<uint64_t> now;
  {
    MutexLock lock(&mutex_);
    if (!deleted_ && version_ > durable_version_) {
      waiters_.push_back({version_, record_.updates_applied, std::move(done)});
      return;
    }
    now = deleted_ ? absl::StatusOr<uint64_t>(DeletedError()) : record_.updates_applied;
  }
  done(std::move(now));
}

void Session::FailWaiters(const absl::Status& status, Notices* notices) {
  for (Waiter& waiter : waiters_) notices->Add([done = std::move(waiter.done), status] { done(status); });
  waiters_.clear();
}

}  // namespace calib::server
