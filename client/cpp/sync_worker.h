#ifndef CALIB_CLIENT_CPP_SYNC_WORKER_H_
#define CALIB_CLIENT_CPP_SYNC_WORKER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/cpp/client.h"
#include "quant/observe.h"

namespace calib::client {

class SyncWorkerImpl;
struct StepTicket;

struct SyncWorkerOptions {
  std::string session;
  // Id of this process; empty: a random UUID. A rank may change its id, and with it its process, at any time.
  std::string worker_id;
  // For people, such as host and rank.
  std::string display_name;
  // The rank, below the world's size. A newer worker of the same rank ends this one.
  uint32_t rank = 0;
  // Reconnection: exponential backoff with jitter between these, for ever; waiting callers have deadlines of their own.
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(10);
  // Most bytes of contributions that are kept because they are not durable; past it a step waits until the server,
  // asked to, has made older ones durable. A single step may be larger.
  size_t kept_bytes = 64 << 20;
  // The server's --max-message-bytes. A step is one message, so a larger one is refused here: RESOURCE_EXHAUSTED.
  size_t max_message_bytes = 4 << 20;
};

// Gradients of a LEARNED layer's parameters on this rank, without LSQ's factor (quant/learned.h computes them).
struct StepGradients {
  absl::Span<const double> scale;       // dL/dscale, one a channel or one in all
  absl::Span<const double> zero_point;  // dL/dzero_point, as many; empty: 0 everywhere
  uint64_t elements = 0;                // of the layer's tensor on this rank
};

// What a rank gives for one layer: a tensor, which is observed on the calling thread (of a LEARNED layer for its
// initial values), or gradients. Everything is borrowed until the call returns and no longer.
struct StepLayer {
  absl::string_view name;
  std::variant<TensorView, StepGradients> data;
};

struct StepOptions {
  // The step; 0: next_step(). A step that this worker has contributed to already is not contributed to again but waited
  // for, as if by the first call; it must have the same layers.
  uint64_t step = 0;
  absl::Time deadline = absl::InfiniteFuture();
  std::stop_token cancel;
  // Of the gradients: 1 for those of a mean loss, the number of samples for those of a sum.
  double gradient_weight = 1;
};

// The ranks that take part.
struct StepWorld {
  uint64_t epoch = 0;
  uint32_t size = 0;

  friend bool operator==(const StepWorld&, const StepWorld&) = default;
};

// What all ranks together gave for one layer. Spans point into the StepResult; a span of ranges has one entry a
// channel, or one in all, 0 where no rank had a finite value. All are empty for a layer that the session skips, that is
// passive, or that has no channels; what comes of ranges is empty for a layer that was given gradients.
struct StepLayerResult {
  absl::Span<const float> step_min;  // of this step
  absl::Span<const float> step_max;
  absl::Span<const float> min;  // that the observer holds after the step
  absl::Span<const float> max;
  // QParams after the step, one a channel or one in all; none when the layer has no finite value.
  absl::Span<const float> scale;
  absl::Span<const int64_t> zero_point;
  // For a layer that was given gradients: the zero point as it is learned, between codes.
  absl::Span<const float> learned_zero_point;
};

// Can be copied and moved; its spans stay valid as long as one copy lives.
struct StepResult {
  uint64_t step = 0;
  uint64_t world_epoch = 0;
  uint32_t world_size = 0;
  uint32_t ranks = 0;                   // that contributed; less than world_size when the step was closed without some
  bool counted = false;                 // this rank's part was; false when it came late
  std::vector<StepLayerResult> layers;  // in the order of the contribution's
  std::shared_ptr<const void> memory;
};

// A step that was contributed to and may not be answered yet. Movable. Dropping it changes nothing for the step. Not
// thread-safe; outlives its worker, whose end is then its answer.
class PendingStep {
 public:
  PendingStep(PendingStep&&) noexcept;
  PendingStep& operator=(PendingStep&&) noexcept;
  ~PendingStep();

  uint64_t step() const;
  // Whether Wait would return at once.
  bool ready() const;
  // The step's result, once it is folded, or the error with which it ended (SyncWorker lists them); the same each time
  // from then on. DEADLINE_EXCEEDED and CANCELLED give up waiting alone: the contribution stays, wait again.
  absl::StatusOr<StepResult> Wait(absl::Time deadline = absl::InfiniteFuture(), std::stop_token cancel = {});

 private:
  friend class SyncWorker;
  PendingStep(std::shared_ptr<SyncWorkerImpl> worker, std::shared_ptr<StepTicket> ticket);

  std::shared_ptr<SyncWorkerImpl> worker_;
  std::shared_ptr<StepTicket> ticket_;
};

// One rank of a session with synchronous steps (calib/v1/observe.proto): an all-reduce as a service, exactly once
// through any number of reconnections and restarts of the server.
//
// Each step takes all layers in one call. Blocking:
//   worker->Step(layers)                           lock-step with the other ranks
// or with the answer of step t used at t + 1:
//   pending = worker->StartStep(layers); ...; pending->Wait()
// At most `window` (of the session's config) steps may be open; StartStep blocks until one is folded.
//
// What is contributed is kept until it is durable and sent again after a reconnection. A process that is started again
// begins at next_step(). Values of layers with a reference histogram are copied and counted when the ranges of all
// ranks are known: on the thread that waits for the step, or, while none does, on a thread of the worker.
//
// Errors of a step, which was not counted then; the same number is the next one to contribute to:
//   STEP_TIMED_OUT          some ranks did not contribute in time (policy FAIL). Contribute again.
//   WORLD_EPOCH_STALE       the world changed, and what was given for open steps was dropped. Take up world() and
//                           contribute anew from next_step() on, which may be a step that was answered before, if the
//                           server restarted meanwhile without having made it durable.
//   OBSERVER_MISMATCH, CHANNEL_COUNT_CHANGED, REFERENCE_TOO_LARGE, LEARNED_NOT_INITIALIZED, LIMIT_EXCEEDED, ...
//                           what this rank, or all together, gave can't be folded. Correct it.
// and of a step that is over, so that next_step() is a later one:
//   STEP_OUT_OF_WINDOW      it was folded, but its result is not kept any more.
// An error that no Wait has returned yet is returned by the next call that contributes to step 0, the next one, so that
// no step takes another's number unnoticed; a change of the world by any call that contributes, unless world() was
// asked since.
//
// RANK_INVALID: the world does not have this rank (any more). Errors that end the worker make every call fail with
// them: WORKER_FENCED (a newer worker of the rank), SESSION_NOT_FOUND, SESSION_DELETED, SESSION_SEALED,
// SESSION_NOT_SYNCHRONOUS, SESSION_CONFIG_MISMATCH (deleted and made again), credentials that are not accepted,
// DATA_LOSS (the server forgot what it had called durable, or can't repeat what it had folded). A lost connection or a
// restarting server is no error.
//
// Thread-safe.
class SyncWorker {
 public:
  // Connects as a rank, and makes the steps durable that are folded. Errors are those of the Observe call:
  // SESSION_NOT_FOUND, SESSION_NOT_SYNCHRONOUS, RANK_INVALID, INVALID_FIELD, ...; UNAVAILABLE after `timeout`, or at
  // once if the client's options say retry_unavailable = false.
  static absl::StatusOr<std::unique_ptr<SyncWorker>> Open(std::shared_ptr<Client> client,
                                                          const SyncWorkerOptions& options,
                                                          absl::Duration timeout = absl::Seconds(30));
  // Close with a deadline of a second.
  ~SyncWorker();
  SyncWorker(const SyncWorker&) = delete;
  SyncWorker& operator=(const SyncWorker&) = delete;

  // Contributes to a step and waits for its result; past its deadline for a second at most, when the server takes
  // nothing. To go on waiting after DEADLINE_EXCEEDED or CANCELLED, call it again with the same step number: nothing is
  // contributed twice.
  absl::StatusOr<StepResult> Step(absl::Span<const StepLayer> layers, const StepOptions& options = {});

  // Contributes to a step without waiting for its result; waits for room. DEADLINE_EXCEEDED and CANCELLED: nothing was
  // contributed. Errors before anything is sent, beside those above: as TensorObserver::Observe; LAYER_NAME_INVALID;
  // INVALID_FIELD (a layer twice, gradients of unequal lengths, a weight that is not above 0, the number of a step with
  // other layers); OBSERVER_MISMATCH (gradients of a layer that is not LEARNED).
  absl::StatusOr<PendingStep> StartStep(absl::Span<const StepLayer> layers, const StepOptions& options = {});

  // The step that this rank should contribute to next: the lowest that it has no part in, or, in a process that was
  // started again, the first that was not folded then.
  uint64_t next_step() const;
  // The ranks, as last heard of.
  StepWorld world() const;
  // The session's config, which never changes.
  const SessionConfig& config() const;
  const std::string& worker_id() const;

  // Returns once every step that this worker has seen folded is durable. DEADLINE_EXCEEDED after `timeout`.
  absl::Status Flush(absl::Duration timeout = absl::Minutes(5));
  // Flush, then ends the stream; later calls fail, and steps that are not folded end with FAILED_PRECONDITION, though
  // what the server has of them stays there. After DEADLINE_EXCEEDED the worker is still open: call again.
  absl::Status Close(absl::Duration timeout = absl::Minutes(5));
  // The error that ended the worker, or OK. Does not block.
  absl::Status status() const;

  struct Stats {
    uint64_t steps_contributed = 0;
    uint64_t steps_answered = 0;  // by a result
    uint64_t values_observed = 0;
    uint64_t messages_sent = 0;  // contributions and counts, repetitions included
    uint64_t bytes_sent = 0;
    uint64_t reconnections = 0;
    uint64_t folded_step = 0;   // last one that is folded, as last heard of
    uint64_t durable_step = 0;  // last one that is durable
    uint64_t kept_bytes = 0;    // because it is not durable, or not answered
  };
  Stats stats() const;

 private:
  explicit SyncWorker(std::shared_ptr<SyncWorkerImpl> impl);
  const std::shared_ptr<SyncWorkerImpl> impl_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_SYNC_WORKER_H_
