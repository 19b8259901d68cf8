#ifndef CALIB_SERVER_STORE_STORE_H_
#define CALIB_SERVER_STORE_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/layer_statistics.h"
#include "quant/observer_config.h"
#include "server/store/step_record.h"

namespace calib::server {

// A state file that was merged into a session.
struct ImportedState {
  std::string digest;                // of the file
  std::vector<std::string> lineage;  // uids of the sessions whose values it holds
  bool incomplete = false;           // values are missing in it
};

// What is kept of a session beside its layers and workers.
struct SessionRecord {
  std::string name;
  std::string uid;  // 32 hexadecimal digits, of this session alone: also one of the same name has another
  SessionConfig config;
  absl::Time create_time;
  absl::Time update_time;  // of the last change, to about a checkpoint's interval
  bool sealed = false;
  // Globs that were switched on or off, in the order in which that was asked.
  struct Toggle {
    std::string pattern;
    bool enabled = true;
  };
  std::vector<Toggle> toggles;
  uint64_t updates_applied = 0;
  uint64_t values_ignored = 0;
  std::vector<ImportedState> imports;  // in the order in which they came
  StepsRecord steps;
};

// What is kept of a worker.
struct WorkerRecord {
  std::string id;
  std::string display_name;
  uint32_t ordinal = 0;  // its number among the session's workers, from 0 in order of arrival
  uint64_t incarnation = 0;
  uint64_t applied = 0;
  uint64_t lost = 0;  // last unit that the worker was told is durable and that this store does not have; 0: none
};

// What is kept of a layer: all of its state, not a difference.
struct LayerRecord {
  std::string name;
  // Never null. In a commit it does not change until the commit returns, and may change after that.
  std::shared_ptr<const LayerStatistics> statistics;
  std::vector<uint32_t> workers;  // ordinals of those that contributed, rising
};

// A consistent cut of one session: the state after exactly the updates that its workers' watermarks name. In a commit,
// layers and workers are those that changed since the last one; from Load, all, the workers' ordinals being 0 to n - 1.
struct SessionCheckpoint {
  SessionRecord session;
  std::vector<WorkerRecord> workers;
  std::vector<LayerRecord> layers;
};

// What a store takes of its disk.
struct StoreUsage {
  uint64_t bytes = 0;       // of its files
  uint64_t free_bytes = 0;  // that the file system has left; 0 when there is none
};

// Where sessions survive. What Commit has returned OK for is durable: a later Load gives it, whatever happened to the
// process in between.
//
// Thread-safe. Calls may block on a disk, so no gRPC callback may make them.
class Store {
 public:
  virtual ~Store() = default;

  // Takes the store for this server and returns its epoch, larger than every one before; commits of older epochs fail
  // from now on. Once, before anything else. UNAVAILABLE: another server holds it, or it can't be read or written.
  // DATA_LOSS: what is stored is damaged, or goes back in time. FAILED_PRECONDITION: a newer calibd has written it.
  virtual absl::StatusOr<uint64_t> Open() = 0;

  // Everything that is durable, in name order. DATA_LOSS names what is damaged.
  virtual absl::StatusOr<std::vector<SessionCheckpoint>> Load() = 0;

  // Makes checkpoints of different sessions durable, all of them whole or none. ABORTED: `epoch` is not the newest;
  // another server took over. Any other error: it is unknown whether they are durable, and the caller may try again
  // with checkpoints that hold all of these changes.
  virtual absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) = 0;

  // Removes a session; OK when there is none. Durable on return. ABORTED as Commit. Any other error: it is unknown
  // whether the session is there; the caller may try again, or commit all of it.
  virtual absl::Status Delete(uint64_t epoch, const std::string& session) = 0;

  virtual StoreUsage GetUsage() const = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_STORE_H_
