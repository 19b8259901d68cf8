#ifndef CALIB_SERVER_ENGINE_ENGINE_H_
#define CALIB_SERVER_ENGINE_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/counters.h"
#include "server/base/mutex.h"
#include "server/engine/limits.h"
#include "server/engine/observer_pool.h"
#include "server/engine/session.h"
#include "server/store/store.h"

namespace calib::server {

class Checkpointer;
class StepTimer;

struct EngineOptions {
  Limits limits;
  // Time between checkpoints of changed sessions. Infinite: only when asked (Flush, seal, tests).
  absl::Duration checkpoint_interval = absl::Seconds(1);
  // A checkpoint is also made once a session took in this much since its last one, so that clients' windows of what is
  // not durable keep moving; but such ones take a small part of the time. Bytes of messages.
  uint64_t checkpoint_bytes = 16 << 20;
  // Sessions that did not change for so long, and have no open stream, are deleted. Infinite: none is. After a start
  // none is before that time has passed, or an hour, so that workers can come back first.
  absl::Duration session_expiry = absl::InfiniteDuration();
  const Clock* clock = Clock::System();
};

// All sessions of a server, over a store: the core behind every call, without gRPC. Thread-safe.
//
// Lifetime: every ObserveStream must be closed before the engine is destroyed. Destruction serves the waiters that
// there are and stores nothing else: call Checkpoint() first.
class Engine {
 public:
  // Opens the store, loads its sessions and starts the checkpointer. Errors are the store's.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, std::unique_ptr<Store> store);
  ~Engine();

  // --- Sessions.

  struct CreateResult {
    std::shared_ptr<Session> session;
    bool created = false;
  };
  // INVALID_FIELD, SESSION_CONFIG_MISMATCH, LIMIT_EXCEEDED, SERVER_DRAINING. The caller waits with WhenDurable before
  // it answers.
  absl::StatusOr<CreateResult> CreateSession(const std::string& name, const SessionConfig& config)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // SESSION_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<Session>> FindSession(const std::string& name) const ABSL_LOCKS_EXCLUDED(mutex_);
  // In name order, after `after`, at most `limit`.
  std::vector<std::shared_ptr<Session>> ListSessions(const std::string& after, size_t limit) const
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Blocks on the store: not for a gRPC thread. SESSION_NOT_FOUND, STORE_FAILED (the session stays).
  absl::Status DeleteSession(const std::string& name) ABSL_LOCKS_EXCLUDED(store_mutex_, mutex_);

  // Calls `done`, from any thread, once everything applied to `session` so far is durable, or with the error; asks for
  // a checkpoint now.
  void WhenDurable(const std::shared_ptr<Session>& session, Session::DurableCallback done);

  // --- Life cycle.

  // Refuses new sessions and streams and calls OnDrain on all open streams. Idempotent.
  void BeginDrain() ABSL_LOCKS_EXCLUDED(mutex_);
  bool draining() const { return draining_; }
  // Commits everything that changed, now, in this thread, and delivers what that makes durable. Sessions are committed
  // together, as many as the store should take at a time. The first error, after all were tried: STORE_FAILED.
  absl::Status Checkpoint() ABSL_LOCKS_EXCLUDED(store_mutex_, mutex_);
  // Deletes sessions that are due (EngineOptions::session_expiry), a hundred at most. Blocks on the store.
  // STORE_FAILED.
  absl::Status ExpireSessions() ABSL_LOCKS_EXCLUDED(store_mutex_, mutex_);
  // OK while the store takes commits; else the first error of the last checkpoint.
  absl::Status store_status() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t server_epoch() const { return server_epoch_; }

  const EngineOptions& options() const { return options_; }
  Counters& counters() { return counters_; }
  ObserverPool& observer_pool() { return observer_pool_; }

  // --- For ObserveStream.

  // Counts the stream in; SERVER_DRAINING, LIMIT_EXCEEDED. The listener hears of a drain until the stream is removed.
  absl::StatusOr<uint64_t> AddStream(std::shared_ptr<StreamListener> listener) ABSL_LOCKS_EXCLUDED(mutex_);
  void RemoveStream(uint64_t stream) ABSL_LOCKS_EXCLUDED(mutex_);
  // A session took in this many bytes since its last cut; suggests a checkpoint when they are enough.
  void NoteIngested(uint64_t bytes_since_cut);
  // Delivers what came of a step message, and sees to its deadline.
  void NoteStep(const std::shared_ptr<Session>& session, Session::StepOutcome outcome);

 private:
  Engine(const EngineOptions& options, std::unique_ptr<Store> store);

  void AddSession(SessionCheckpoint checkpoint, Session::Origin origin) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Commits what changed of sessions from *next on, one or more of them, and moves *next behind them.
  absl::Status CheckpointSome(absl::Span<const std::shared_ptr<Session>> sessions, size_t* next)
      ABSL_LOCKS_EXCLUDED(store_mutex_);
  // What the checkpointer's thread does.
  void RunCheckpoint() ABSL_LOCKS_EXCLUDED(store_mutex_, mutex_);
  // Deletes the session, if `still` says so once no commit is under way. Returns whether it did.
  absl::StatusOr<bool> DeleteIf(const std::string& name, const std::function<bool(const Session&)>& still)
      ABSL_LOCKS_EXCLUDED(store_mutex_, mutex_);

  const EngineOptions options_;
  const std::unique_ptr<Store> store_;
  uint64_t server_epoch_ = 0;  // constant after Create
  Counters counters_;
  ObserverPool observer_pool_;
  std::atomic<bool> draining_{false};

  // Held from sessions' cuts until the store's answer is noted, and from a deletion in the store until it is noted: so
  // that cuts are committed in order, and no commit brings back what was deleted.
  Mutex store_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<StreamListener>> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_stream_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::Status store_status_ ABSL_GUARDED_BY(mutex_);
  absl::Duration next_expiry_ ABSL_GUARDED_BY(mutex_);  // on the clock's Elapsed

  // Their threads stop first.
  std::unique_ptr<Checkpointer> checkpointer_;
  std::unique_ptr<StepTimer> step_timer_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_ENGINE_H_
