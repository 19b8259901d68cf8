#ifndef CALIB_SERVER_ENGINE_SESSION_H_
#define CALIB_SERVER_ENGINE_SESSION_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "calib/v1/observe.pb.h"
#include "server/base/counters.h"
#include "server/base/mutex.h"
#include "server/engine/layer.h"
#include "server/engine/limits.h"
#include "server/engine/notices.h"
#include "server/engine/session_state.h"
#include "server/engine/step_contribution.h"
#include "server/engine/step_fold.h"
#include "server/engine/step_window.h"
#include "server/engine/stream_listener.h"
#include "server/engine/update.h"
#include "server/engine/worker.h"
#include "server/store/store.h"

namespace calib::server {

// How far a worker's updates and the session's synchronous steps are.
struct Progress {
  uint64_t applied = 0;
  uint64_t durable = 0;
  uint64_t folded_step = 0;
  uint64_t durable_step = 0;
};

// Who opens a stream.
struct StreamOpening {
  std::string worker_id;
  std::string display_name;
  std::optional<uint32_t> rank;
  uint64_t durable = 0;  // last unit that the worker was told is durable
};

// Who sends messages about synchronous steps.
struct StepSender {
  uint32_t worker = 0;  // ordinal
  uint64_t incarnation = 0;
  std::optional<uint32_t> rank;
};

// One calibration job: its layers, its workers, and the rules by which updates are applied exactly once.
//
// Exactly once. An update [first, last] of a worker is applied, whole or not at all, iff first = applied + 1; last <=
// applied is a repetition; anything else is refused. Incarnations fence: only the worker's newest stream can apply, and
// OpenStream reads `applied` in the same critical section that fences the older stream.
//
// Durability. Every change makes a new version of the session. TakeCut() takes what changed since the last durable
// version, at one point between updates, without copying statistics: those that change while the cut is being committed
// are copied then. MarkDurable() says that the cut was committed. Waiters for a version are called back then.
//
// Thread-safe. Nothing is called back under the session's lock.
class Session {
 public:
  enum class Origin {
    kNew,     // nothing of it is durable
    kLoaded,  // the checkpoint is all of it, and is durable
  };
  // `limits` and `counters` must outlive it.
  Session(SessionCheckpoint checkpoint, Origin origin, const Limits& limits, Counters* counters);

  const std::string& name() const { return name_; }
  const SessionConfig& config() const { return config_; }

  // --- Streams; see ObserveStream for the caller. (session_streams.cc)

  struct OpenResult {
    uint32_t worker = 0;  // ordinal
    uint64_t incarnation = 0;
    Progress progress;
    uint64_t world_epoch = 0;  // 0: the session has no synchronous steps
    uint32_t world_size = 0;
  };
  // Registers a stream of a worker and fences its older one, and another worker's with the same rank, whose listeners
  // get WORKER_FENCED. SESSION_DELETED, LIMIT_EXCEEDED; with a rank SESSION_NOT_SYNCHRONOUS, RANK_INVALID. A sealed
  // session can be opened: its workers learn from the Welcome what was applied.
  absl::StatusOr<OpenResult> OpenStream(const StreamOpening& opening, std::shared_ptr<StreamListener> listener)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Forgets the stream's listener, if it is still this incarnation's.
  void CloseStream(uint32_t worker, uint64_t incarnation) ABSL_LOCKS_EXCLUDED(mutex_);

  // What CheckSequence and Apply found.
  enum class Sequencing { kNext, kRepeated };
  // Whether an update of this stream would be applied: cheap, before its payload is decoded or reduced.
  // SESSION_DELETED, WORKER_FENCED, INVALID_FIELD (no such range), SESSION_SEALED, SEQUENCE_GAP, SEQUENCE_OVERLAP; a
  // repetition is one in a sealed session too.
  absl::StatusOr<Sequencing> CheckSequence(uint32_t worker, uint64_t incarnation, uint64_t first, uint64_t last) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  struct ApplyResult {
    Sequencing sequencing = Sequencing::kNext;
    uint64_t values_ignored = 0;   // of disabled layers, in this update
    uint64_t bytes_since_cut = 0;  // of messages that were applied since the last cut
  };
  // Applies an update, whole or not at all. Errors as CheckSequence, and CHANNEL_COUNT_CHANGED, OBSERVER_MISMATCH,
  // COUNT_OVERFLOW, REFERENCE_GRID_MISMATCH, REFERENCE_TOO_LARGE, HISTOGRAM_INVALID, LIMIT_EXCEEDED.
  absl::StatusOr<ApplyResult> Apply(uint32_t worker, uint64_t incarnation, const DecodedUpdate& update)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The grid on which a reference histogram's next step, of this range, is to be counted. RESOURCE_EXHAUSTED as
  // ReferenceHistogram::NextGrid, SESSION_DELETED.
  absl::StatusOr<ReferenceGrid> NextGrid(LayerBinding* binding, const Range& step) ABSL_LOCKS_EXCLUDED(mutex_);
  Progress GetProgress(uint32_t worker) const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Synchronous steps. `now` is on the clock of their deadlines, which never goes back. (session_steps.cc,
  // session_steps_fold.cc)

  struct StepOutcome {
    Notices notices;                         // to be delivered
    std::optional<absl::Duration> deadline;  // when ExpireSteps is due next; unset: it isn't
    uint64_t bytes_since_cut = 0;
  };
  // Takes a rank's part of a step; what is complete then is folded. A part of a folded step is answered again, and
  // counted among the repeated or late ones. SESSION_DELETED, WORKER_FENCED, SESSION_NOT_SYNCHRONOUS, RANK_INVALID,
  // WORLD_EPOCH_STALE, STEP_OUT_OF_WINDOW, SESSION_SEALED, CHANNEL_COUNT_CHANGED, LEARNED_NOT_INITIALIZED,
  // STATISTICS_INCONSISTENT, LIMIT_EXCEEDED: nothing is taken.
  absl::StatusOr<StepOutcome> Contribute(const StepSender& sender, StepUpdate update, absl::Duration now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes a contributor's counts. Errors as Contribute's about sender, world and window, REFERENCE_GRID_MISMATCH,
  // HISTOGRAM_INVALID. Counts that are not awaited are passed over.
  absl::StatusOr<StepOutcome> TakeCounts(const StepSender& sender, const v1::StepCounts& counts, absl::Duration now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Fails steps, or closes them without those that are missing, if their deadline has passed.
  StepOutcome ExpireSteps(absl::Duration now) ABSL_LOCKS_EXCLUDED(mutex_);
  struct WorldChange {
    uint64_t world_epoch = 0;
    uint64_t folded_step = 0;
    Notices notices;  // to be delivered
  };
  // Begins a new world of this many ranks and drops open steps. SESSION_DELETED, SESSION_NOT_SYNCHRONOUS,
  // SESSION_SEALED, WORLD_EPOCH_STALE. REQUIRES: world_size > 0.
  absl::StatusOr<WorldChange> SetWorld(uint64_t expected_epoch, uint32_t world_size) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Control. (session.cc)

  // No more updates; idempotent. The notices refuse what was given for open steps. SESSION_DELETED.
  absl::Status Seal(Notices* notices) ABSL_LOCKS_EXCLUDED(mutex_);
  // Switches layers on or off, also those not seen yet; of several patterns that match a layer the last one given
  // decides. Returns the number of layers that match so far. INVALID_FIELD, SESSION_SEALED, SESSION_DELETED,
  // LIMIT_EXCEEDED.
  absl::StatusOr<uint64_t> SetEnabled(const std::string& pattern, bool enabled) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sets the parameters of one layer with a passive observer, one a channel. LAYER_NAME_INVALID, LAYER_SKIPPED,
  // LAYER_NOT_PASSIVE, INVALID_FIELD (a scale that is not finite and positive, or none), LIMIT_EXCEEDED,
  // SESSION_SEALED, SESSION_DELETED.
  absl::Status SetQParams(const std::string& layer, absl::Span<const QParams> params) ABSL_LOCKS_EXCLUDED(mutex_);
  // Frees all layers and refuses everything from now on. The notices end all streams with SESSION_DELETED and fail all
  // waiters.
  Notices MarkDeleted() ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Reading. Layers are copied one at a time, so that ingestion is held up for microseconds. (session_read.cc)

  struct Summary {
    SessionRecord record;
    uint64_t layer_count = 0;
    uint64_t worker_count = 0;
    uint64_t values = 0;  // stays at 2^64 - 1
    uint64_t state_bytes = 0;
    uint64_t version = 0;
    bool deleted = false;
    bool incomplete = false;  // some worker's durable units are lost
    // Of synchronous steps; record.steps has the rest.
    uint64_t durable_step = 0;
    uint32_t open_steps = 0;
    std::vector<uint32_t> missing_ranks;  // for which the lowest open step waits, if any step is open
    std::optional<absl::Duration> open_since;
  };
  Summary GetSummary() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether the store lost what some worker was told is durable.
  bool IsIncomplete() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether everything is durable, no stream is open, and nothing changed after `time`.
  bool IsIdleSince(absl::Time time) const ABSL_LOCKS_EXCLUDED(mutex_);

  struct WorkerSummary {
    WorkerRecord record;
    uint64_t durable = 0;
    bool connected = false;
    std::optional<uint32_t> rank;
    uint64_t step = 0;
  };
  // In id order.
  std::vector<WorkerSummary> GetWorkers() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Names of layers that match, in name order, after `after`, at most `limit`; only those changed since
  // `since_version`.
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
  // LAYER_NOT_FOUND, SESSION_DELETED.
  absl::StatusOr<LayerSnapshot> GetLayer(const std::string& name) const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- State files; see StateExport and StateImport for the callers. (session_state.cc)

  // All statistics at one point between two updates, without copying them. SESSION_DELETED.
  absl::StatusOr<StateCut> CutState() ABSL_LOCKS_EXCLUDED(mutex_);
  // Merges a state, whole or not at all, as one update of a worker "import-DIGEST"; the caller waits with WhenDurable
  // before it answers. A state of this digest that is merged already is OK, in a sealed session too. With
  // `skip_unmergeable` layers that can't be merged are left out; if that leaves none, nothing changes.
  // SESSION_DELETED, SESSION_SEALED, SYNCHRONOUS_STEPS_OPEN, STATE_OVERLAPS, LIMIT_EXCEEDED; about a layer
  // LAYER_SKIPPED, OBSERVER_MISMATCH, CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW, STATE_UNMERGEABLE.
  absl::StatusOr<StateMerge> MergeState(SessionState state, bool skip_unmergeable) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Checkpoints; see Engine::Checkpoint for the caller, which makes one cut at a time. (session_checkpoint.cc)

  struct Cut {
    uint64_t version = 0;  // everything up to this version is in the cut or durable already
    uint64_t bytes = 0;    // memory of its layers
    SessionCheckpoint checkpoint;
  };
  // What changed since the last durable version; nullopt when nothing did, or when the session is deleted. `now`
  // becomes the time of these changes. The caller reads its statistics no more once it has called MarkDurable or
  // MarkFailed.
  std::optional<Cut> TakeCut(absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);
  // The newest cut, which is of this version, was committed. The notices tell streams whose worker got further, and
  // waiters.
  Notices MarkDurable(uint64_t version) ABSL_LOCKS_EXCLUDED(mutex_);
  // It is unknown whether the store still has anything of it: the next cut is all of it.
  void MarkNothingDurable() ABSL_LOCKS_EXCLUDED(mutex_);
  // Its commit failed: the state stays to be cut again. The notices fail all waiters with `status`.
  Notices MarkFailed(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls `done` with the number of updates applied so far once they are durable (at once if they are), or with the
  // error. From any thread.
  using DurableCallback = std::function<void(absl::StatusOr<uint64_t> updates)>;
  void WhenDurable(DurableCallback done) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Waiter {
    uint64_t version;
    uint64_t updates;
    DurableCallback done;
  };

  absl::Status DeletedError() const;
  absl::Status SealedError() const;
  absl::Status FencedError(const std::string& worker_id) const;
  absl::Status NotSynchronousError() const;
  Progress ProgressOf(const Worker& worker) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a layer of this name is switched on.
  bool IsEnabled(absl::string_view layer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Sequencing> Sequence(uint32_t worker, uint64_t incarnation, uint64_t first, uint64_t last) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Apply's two halves: all checks of the rows, without a change; and the changes, which can't fail. In both a layer
  // that is switched off is passed over.
  absl::Status CheckRows(const DecodedUpdate& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MergeLayer(uint32_t worker, const UpdateRows& rows) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckStateBytes() const;
  // Finds the layer of a binding, if there is one by now.
  void FindLayer(LayerBinding* binding) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same, and whether its values are to be ignored.
  bool IsIgnored(LayerBinding* binding) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // MergeState's checks of the whole, then of its limits, without a change.
  absl::Status CheckState(const SessionState& state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckStateLimits(const SessionState& state, size_t layers, size_t new_layers) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Checks one layer, where the state is to go: `observer` is what the rules say of it. As MergeState about a layer.
  absl::Status CheckStateLayer(const std::string& name, const LayerStatistics& state,
                               const std::optional<ObserverConfig>& observer) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MergeStateLayer(uint32_t worker, const std::string& name, LayerStatistics state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status CheckSender(const StepSender& sender) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Contribute's checks of the data, without a change; then its layers, made where there are none.
  absl::Status CheckStepUpdate(const StepUpdate& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BindLayers(StepUpdate* update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Asks for counts and folds, as far as contributions allow.
  void AdvanceSteps(absl::Duration now, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FoldStep(const OpenStep& open, const StepFold& fold, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops all open steps: the lowest one failed. REQUIRES: there is one.
  void FailSteps(const absl::Status& status, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefuseStep(const OpenStep& open, const absl::Status& status, Notices* notices) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // To the stream of this incarnation, if it is still the worker's.
  void SendStep(uint32_t worker, uint64_t incarnation, std::shared_ptr<const v1::ObserveResponse> message,
                Notices* notices) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Layer* AddLayer(const std::string& name, SharedStatistics statistics, const QuantSpec& quant_spec)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Brings the counts of memory up to date after a layer changed, or by this many bytes.
  void Account(Layer* layer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AccountBytes(int64_t change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes out all waiters.
  void FailWaiters(const absl::Status& status, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The cut under way is over.
  void ReleaseCut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  const SessionConfig config_;
  const Limits& limits_;
  Counters* const counters_;

  mutable Mutex mutex_;
  SessionRecord record_ ABSL_GUARDED_BY(mutex_);
  bool deleted_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t cut_version_ ABSL_GUARDED_BY(mutex_) = 0;  // of the newest cut
  uint64_t durable_version_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Layer> layers_ ABSL_GUARDED_BY(mutex_);  // nodes never move: bindings point to them
  std::vector<Worker> workers_ ABSL_GUARDED_BY(mutex_);          // by ordinal
  std::map<std::string, uint32_t> worker_ordinals_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, uint32_t> rank_workers_ ABSL_GUARDED_BY(mutex_);  // the worker whose stream has a rank
  std::optional<StepWindow> steps_ ABSL_GUARDED_BY(mutex_);            // of a synchronous session
  uint64_t cut_step_ ABSL_GUARDED_BY(mutex_) = 0;                      // folded_step in the newest cut
  uint64_t durable_step_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Layer*> cut_layers_ ABSL_GUARDED_BY(mutex_);  // that the cut under way shares
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  bool incomplete_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t values_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t state_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_since_cut_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_SESSION_H_
