#ifndef CALIB_CLIENT_CPP_WORKER_IMPL_H_
#define CALIB_CLIENT_CPP_WORKER_IMPL_H_

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/cpp/observe_call.h"
#include "client/cpp/outbox.h"
#include "client/cpp/step_reducer.h"
#include "client/cpp/worker.h"
#include "quant/observer_config.h"

namespace calib::client {

// A Worker's threads around its Outbox. One thread opens stream after stream and writes; while a stream is open, a
// second one reads. Callers observe on their own threads and meet these at mutex_.
class Worker::Impl {
 public:
  Impl(std::shared_ptr<Client> client, const WorkerOptions& options);
  // Ends the stream as it is.
  ~Impl();

  // The contracts of Worker's.
  absl::Status WaitUntilOpen(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Observe(absl::string_view layer, const TensorView& tensor) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status SendRaw(absl::string_view layer, const TensorView& tensor) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Flush(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status Close(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  Stats stats() const ABSL_LOCKS_EXCLUDED(mutex_);
  const std::string& worker_id() const { return options_.worker_id; }
  // REQUIRES: WaitUntilOpen returned OK.
  const SessionConfig& config() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Why no data can be taken: the fatal error, or that the worker is closed.
  absl::Status Usable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells the writing thread if there is something to send that it may not know of.
  void WakeWriter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { writer_wake_.Signal(); }

  // The stream thread: streams until the worker ends.
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);
  // One stream, to its end. Returns how it ended.
  absl::Status RunStream() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for the next message to write; null when writing is over.
  std::shared_ptr<const v1::ObserveRequest> NextMessage(absl::Time welcome_deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WritingIsOver() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return reader_done_ || stopping_ || !fatal_.ok() || !stream_problem_.ok();
  }
  // Whether the next stream waits for a server that is away. The first one ends, and says why.
  bool WaitsForServer() const ABSL_LOCKS_EXCLUDED(mutex_);
  v1::ObserveRequest OpenRequest() ABSL_LOCKS_EXCLUDED(mutex_);

  // The reading thread of one stream.
  void ReadResponses(ObserveCall* call) ABSL_LOCKS_EXCLUDED(mutex_);
  // False when the stream has to end.
  bool TakeResponse(const v1::ObserveResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeWelcome(const v1::Welcome& welcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeRefusal(const v1::Refusal& refusal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Flush of what was taken so far, also while closing.
  absl::Status FlushTaken(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until `bytes` more may be in line.
  absl::Status WaitForRoom(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Observe of a layer whose observer depends on order: one step.
  absl::Status ObserveStep(absl::string_view layer, const ObserverConfig& observer, const TensorView& tensor)
      ABSL_LOCKS_EXCLUDED(steps_mutex_, mutex_);

  const std::shared_ptr<Client> client_;
  const WorkerOptions options_;

  // Held while a step is reduced and put in line, so that steps are in line in the order in which they were reduced.
  absl::Mutex steps_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  StepReducer step_reducer_ ABSL_GUARDED_BY(steps_mutex_);

  mutable absl::Mutex mutex_;
  absl::CondVar writer_wake_;  // for the stream thread
  absl::CondVar progress_;     // for callers: Welcome, Ack, Refusal, the end

  Outbox outbox_ ABSL_GUARDED_BY(mutex_);
  // The session's, from the first Welcome. Never changes then.
  std::optional<SessionConfig> config_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<TensorObserver>> idle_observers_ ABSL_GUARDED_BY(mutex_);
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
  Stats counts_ ABSL_GUARDED_BY(mutex_);  // what the outbox doesn't know
  int flushing_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time next_round_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  bool refusing_ ABSL_GUARDED_BY(mutex_) = false;  // Close was called: nothing more is taken
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;   // half-close: everything is durable
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;  // drop everything
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // the stream thread is over

  // Of the stream.
  ObserveCall* call_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  // Of the current stream; waiting for a server that is away is no part of it.
  absl::Time welcome_time_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool reader_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool progressed_ ABSL_GUARDED_BY(mutex_) = false;  // something was acknowledged
  uint64_t values_ignored_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status stream_problem_ ABSL_GUARDED_BY(mutex_);   // why this side gave it up
  absl::Status last_stream_end_ ABSL_GUARDED_BY(mutex_);  // of the stream before

  std::thread stream_thread_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_WORKER_IMPL_H_
