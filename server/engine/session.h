#ifndef CALIB_SERVER_ENGINE_SESSION_H_
#define CALIB_SERVER_ENGINE_SESSION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/codec/statistics_codec.h"
#include "server/base/counters.h"
#include "server/base/mutex.h"
#include "server/engine/layer.h"
#include "server/engine/limits.h"
#include "server/engine/stream_listener.h"
#include "server/store/store.h"

namespace calib::server {

// How far a worker's updates are.
struct Progress {
  uint64_t applied = 0;
  uint64_t durable = 0;
};

// An update after decoding, with its stream's handles resolved. Borrows what it points to.
struct UpdateRows {
  LayerBinding* binding;  // of the stream: name, observer, and the layer once it exists
  LayerView rows;         // statistics as sent ...
  const LayerStatistics* observed = nullptr;  // ... or as reduced from a raw chunk; then `rows` is empty
};
struct DecodedUpdate {
  uint64_t first = 0;
  uint64_t last = 0;
  std::vector<UpdateRows> layers;
};

// One calibration job: its layers, its workers, and the rules by which updates are applied exactly once.
//
// Exactly once. An update [first, last] of a worker is applied, whole or not at all, iff first = applied + 1; last <= applied
// is a repetition; anything else is refused. Incarnations fence: only the worker's newest stream can apply, and Open reads
// `applied` in the same critical section that fences the older stream.
//
// Durability. Every change makes a new version of the session. Cut() copies what changed since the last durable version, at one
// point between updates; MarkDurable() says that the cut was committed. Waiters for a version are called back then.
//
// Thread-safe. Nothing is called back under the session's lock.
class Session {
 public:
  // A new session, or one that Load gave back.
  Session(SessionCheckpoint checkpoint, uint64_t server_epoch, const Limits& limits, Counters* counters);
  ~Session();

  const std::string& name() const { return name_; }
  const SessionConfig& config() const { return config_; }

  // --- Streams; see ObserveStream for the caller.

  struct OpenResult {
    uint32_t worker = 0;  // ordinal
    uint64_t incarnation = 0;
    Progress progress;
  };
  // Registers a stream of a worker and fences its older one, whose listener gets WORKER_FENCED. SESSION_DELETED,
  // LIMIT_EXCEEDED. A sealed session can be opened: its workers learn from the Welcome what was applied.
  absl::StatusOr<OpenResult> OpenStream(const std::string& worker_id, const std::string& display_name,
                                        std::shared_ptr<StreamListener> listener) ABSL_LOCKS_EXCLUDED(mutex_);
  // Forgets the stream's listener, if it is still this incarnation's.
  void CloseStream(uint32_t worker, uint64_t incarnation) ABSL_LOCKS_EXCLUDED(mutex_);

  // What CheckSequence and Apply found.
  enum class Sequencing { kNext, kRepeated };
  // Whether an update of this stream would be applied: cheap, before a raw chunk is reduced. Errors as Apply's.
  absl::StatusOr<Sequencing> CheckSequence(uint32_t worker, uint64_t incarnation, uint64_t first, uint64_t last)
      ABSL_LOCKS_EXCLUDED(mutex_);
  struct ApplyResult {
    Sequencing sequencing = Sequencing::kNext;
    uint64_t values_ignored = 0;  // of disabled layers, in this update
    Progress progress;
  };
  // Applies an update, whole or not at all. SESSION_DELETED, SESSION_SEALED, WORKER_FENCED, SEQUENCE_GAP, SEQUENCE_OVERLAP,
  // CHANNEL_COUNT_CHANGED, OBSERVER_MISMATCH, COUNT_OVERFLOW, LIMIT_EXCEEDED.
  absl::StatusOr<ApplyResult> Apply(uint32_t worker, uint64_t incarnation, const DecodedUpdate& update)
      ABSL_LOCKS_EXCLUDED(mutex_);
  Progress GetProgress(uint32_t worker) const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Control.

  // No more updates; idempotent. SESSION_DELETED.
  absl::Status Seal() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns the number of layers that match so far. SESSION_SEALED, SESSION_DELETED.
  absl::StatusOr<uint64_t> SetEnabled(const std::string& pattern, bool enabled) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends all streams with SESSION_DELETED, fails all waiters and refuses everything from now on.
  void MarkDeleted() ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Reading. Layers are copied one at a time, so that ingestion is held up for microseconds.

  struct Summary {
    SessionRecord record;
    uint64_t layer_count = 0;
    uint64_t worker_count = 0;
    uint64_t values = 0;
    uint64_t state_bytes = 0;
    uint64_t version = 0;
  };
  Summary GetSummary() const ABSL_LOCKS_EXCLUDED(mutex_);

  struct WorkerSummary {
    WorkerRecord record;
    uint64_t durable = 0;
    bool connected = false;
  };
  // In id order.
  std::vector<WorkerSummary> GetWorkers() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Names of layers that match, in name order, after `after`, at most `limit`; only those changed since `since_version`.
  std::vector<std::string> ListLayers(const std::string& pattern, const std::string& after, size_t limit,
                                      uint64_t since_version = 0) const ABSL_LOCKS_EXCLUDED(mutex_);
  struct LayerSnapshot {
    std::string name;
    LayerStatistics statistics;
    bool enabled = true;
    uint64_t workers = 0;
    uint64_t version = 0;
    QuantSpec quant_spec;  // its rule's
  };
  // NOT_FOUND (LAYER_NOT_FOUND) when there is no such layer.
  absl::StatusOr<LayerSnapshot> GetLayer(const std::string& name) const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Checkpoints; see Checkpointer for the caller.

  struct Cut {
    uint64_t version = 0;  // everything up to this version is in the cut or durable already
    SessionCheckpoint checkpoint;
  };
  // What changed since the last durable version; nullopt when nothing did, or when the session is deleted.
  std::optional<Cut> TakeCut() ABSL_LOCKS_EXCLUDED(mutex_);
  // The cut of this version, with these workers' watermarks, was committed. Tells streams and waiters.
  void MarkDurable(uint64_t version, const std::vector<WorkerRecord>& workers) ABSL_LOCKS_EXCLUDED(mutex_);
  // A commit failed: waiters fail with STORE_FAILED and this message; the state stays to be cut again.
  void MarkFailed(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls `done` once everything applied so far is durable (at once if it is), or with the error. From any thread.
  using DurableCallback = std::function<void(absl::StatusOr<uint64_t> updates)>;
  void WhenDurable(DurableCallback done) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Worker;
  struct Waiter;

  const std::string name_;
  const SessionConfig config_;
  const uint64_t server_epoch_;
  const Limits& limits_;
  Counters* const counters_;

  mutable Mutex mutex_;
  SessionRecord record_ ABSL_GUARDED_BY(mutex_);
  bool deleted_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t durable_version_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::unique_ptr<Layer>> layers_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Worker>> workers_ ABSL_GUARDED_BY(mutex_);  // by ordinal
  std::map<std::string, uint32_t> worker_ordinals_ ABSL_GUARDED_BY(mutex_);
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  uint64_t values_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t state_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_SESSION_H_
