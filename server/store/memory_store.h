#ifndef CALIB_SERVER_STORE_MEMORY_STORE_H_
#define CALIB_SERVER_STORE_MEMORY_STORE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/base/mutex.h"
#include "server/store/store.h"

namespace calib::server {

// A Store that lives and dies with its object: for throw-away runs and for tests, which open a second engine on it as
// if the first had crashed.
class MemoryStore : public Store {
 public:
  struct Options {
    // Keep what is committed, so that Load gives it back. A server needs that not: nothing outlives its process.
    bool retain = false;
    // Of the first Open. A server gives one that its earlier processes did not have, such as the time.
    uint64_t first_epoch = 1;
  };

  MemoryStore() : MemoryStore(Options{}) {}
  explicit MemoryStore(const Options& options) : options_(options), epoch_(options.first_epoch - 1) {}

  absl::StatusOr<uint64_t> Open() override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::vector<SessionCheckpoint>> Load() override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Delete(uint64_t epoch, const std::string& session) override ABSL_LOCKS_EXCLUDED(mutex_);
  StoreUsage GetUsage() const override { return {}; }

 private:
  struct SessionState {
    SessionRecord session;
    std::map<std::string, WorkerRecord> workers;
    std::map<std::string, LayerRecord> layers;
  };

  const Options options_;

  Mutex mutex_;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, SessionState> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_MEMORY_STORE_H_
