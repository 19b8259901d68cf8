#include "server/store/memory_store.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace calib::server {
namespace {

absl::Status CheckEpoch(uint64_t epoch, uint64_t newest) {
  if (epoch == newest) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("the store was taken over: this server's epoch is ", epoch, ", the newest is ", newest));
}

}  // namespace

absl::StatusOr<uint64_t> MemoryStore::Open() {
  MutexLock lock(&mutex_);
  return ++epoch_;
}

absl::StatusOr<std::vector<SessionCheckpoint>> MemoryStore::Load() {
  MutexLock lock(&mutex_);
  std::vector<SessionCheckpoint> sessions;
  sessions.reserve(sessions_.size());
  for (const auto& [name, state] : sessions_) {
    SessionCheckpoint& checkpoint = sessions.emplace_back();
    checkpoint.session = state.session;
    for (const auto& [id, worker] : state.workers) checkpoint.workers.push_back(worker);
    for (const auto& [layer_name, layer] : state.layers) checkpoint.layers.push_back(layer);
  }
  return sessions;
}

absl::Status MemoryStore::Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(epoch, epoch_); !status.ok()) return status;
  if (!options_.retain) return absl::OkStatus();
  for (SessionCheckpoint& checkpoint : checkpoints) {
    SessionState& state = sessions_[checkpoint.session.name];
    state.session = std::move(checkpoint.session);
    for (WorkerRecord& worker : checkpoint.workers) {
      std::string id = worker.id;
      state.workers.insert_or_assign(std::move(id), std::move(worker));
    }
    for (LayerRecord& layer : checkpoint.layers) {
      layer.statistics = std::make_shared<const LayerStatistics>(*layer.statistics);
      std::string name = layer.name;
      state.layers.insert_or_assign(std::move(name), std::move(layer));
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::Delete(uint64_t epoch, const std::string& session) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(epoch, epoch_); !status.ok()) return status;
  sessions_.erase(session);
  return absl::OkStatus();
}

}  // namespace calib::server
