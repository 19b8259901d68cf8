#ifndef CALIB_CLIENT_CPP_SYNC_WORKER_IMPL_H_
#define CALIB_CLIENT_CPP_SYNC_WORKER_IMPL_H_

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "client/cpp/observe_call.h"
#include "client/cpp/step_encoder.h"
#include "client/cpp/step_log.h"
#include "client/cpp/sync_worker.h"
#include "quant/observer_config.h"

namespace calib::client {

// A SyncWorker's threads around its StepLog.
//
// Whoever has something to send writes it himself, callers on their own threads, one at a time: a thread that finds
// another one writing leaves it to that one. A stream thread opens stream after stream, sends again what a new one
// needs, counts values while nobody waits for their step, and ends a write that a caller's deadline has overtaken;
// while a stream is open, a second thread reads, and wakes whom the message is for. So a step costs one wake-up on the
// way there and back.
class SyncWorkerImpl {
 public:
  SyncWorkerImpl(std::shared_ptr<Client> client, const SyncWorkerOptions& options);
  // Stop.
  ~SyncWorkerImpl();

  // The contracts of SyncWorker's and PendingStep's.
  absl::Status WaitUntilOpen(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::shared_ptr<StepTicket>> Start(absl::Span<const StepLayer> layers, const StepOptions& options)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<StepResult> Wait(StepTicket* ticket, absl::Time deadline, std::stop_token cancel)
      ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsAnswered(const StepTicket& ticket) const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Flush(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Close(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the stream as it is, and the threads; idempotent. Not from several threads at a time.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  uint64_t next_step() const ABSL_LOCKS_EXCLUDED(mutex_);
  StepWorld world() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  SyncWorker::Stats stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& worker_id() const { return options_.worker_id; }
  // REQUIRES: WaitUntilOpen returned OK.
  const SessionConfig& config() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A ticket that can be waited for.
  struct Waiting : StepTicket {
    absl::CondVar answered_or_asked;
    int waiters = 0;
  };
  using Infos = std::vector<std::shared_ptr<const StepLayerInfo>>;
  // What a call begins with; what has changed when it has encoded its step voids that.
  struct Beginning {
    Infos infos;
    StepWorld world;
    uint64_t layers_refused = 0;
    std::unique_ptr<StepEncoder> encoder;
  };

  absl::Status Usable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why nothing may be contributed now; what it says counts as told.
  absl::Status TakeNews(const StepOptions& options) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status FindLayers(absl::Span<const StepLayer> layers, Infos* infos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The ticket of a step that was contributed to, null when it was not. INVALID_FIELD when it had other layers.
  absl::StatusOr<std::shared_ptr<StepTicket>> FindTicket(uint64_t step, const Infos& infos) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until the log has room for a step of `bytes`, and returns its number.
  absl::StatusOr<uint64_t> WaitForRoom(const Beginning& beginning, size_t bytes, const StepOptions& options)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until the steps up to mark() are durable, and asks the server for it.
  absl::Status WaitUntilDurable(absl::FunctionRef<uint64_t()> mark, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Writes what there is to write, unless another thread is at it, which then writes this too. A write that is not done
  // by the deadline, or that is cancelled, is ended, and the stream with it.
  void Send(absl::Time deadline, const std::stop_token& cancel) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts the values of one step, if there is one to count, and sends the counts. Lets go of mutex_ meanwhile.
  bool Count() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnTicket(StepTicket& ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The worker ends with this error.
  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The stream thread.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status RunStream() ABSL_LOCKS_EXCLUDED(mutex_);
  // Until the stream is over, or to be closed.
  void ServeStream(absl::Time welcome_deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StreamIsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return reader_done_ || write_failed_ || stopping_ || !fatal_.ok() || !stream_problem_.ok();
  }
  // Whether the next stream waits for a server that is away. The first one ends, and says why.
  bool WaitsForServer() const ABSL_LOCKS_EXCLUDED(mutex_);
  v1::ObserveRequest OpenRequest() const;

  // The reading thread of one stream.
  void ReadResponses(ObserveCall* call) ABSL_LOCKS_EXCLUDED(mutex_);
  // False when the stream has to end.
  bool TakeResponse(v1::ObserveResponse* response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeWelcome(const v1::Welcome& welcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<Client> client_;
  const SyncWorkerOptions options_;

  mutable absl::Mutex mutex_;
  absl::CondVar stream_wake_;  // for the stream thread
  absl::CondVar progress_;     // for callers that wait for the stream, room or durability

  StepLog log_ ABSL_GUARDED_BY(mutex_);
  std::optional<SessionConfig> config_ ABSL_GUARDED_BY(mutex_);  // from the first Welcome; never changes then
  std::vector<std::unique_ptr<StepEncoder>> idle_encoders_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
  SyncWorker::Stats counts_ ABSL_GUARDED_BY(mutex_);  // what the log doesn't know
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;      // half-close
  bool abandoning_ ABSL_GUARDED_BY(mutex_) = false;   // close without waiting for answers
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;     // drop everything
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;     // the stream thread is over

  // Of the stream.
  ObserveCall* call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  // Of the current stream; waiting for a server that is away is no part of it.
  absl::Time welcome_time_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool reader_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool progressed_ ABSL_GUARDED_BY(mutex_) = false;  // something was answered
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_failed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time write_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  // When the stream thread looks after the writer next, at the latest.
  absl::Time look_after_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  absl::Status stream_problem_ ABSL_GUARDED_BY(mutex_);   // why this side gave it up
  absl::Status last_stream_end_ ABSL_GUARDED_BY(mutex_);  // of the stream before

  std::thread stream_thread_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_SYNC_WORKER_IMPL_H_
