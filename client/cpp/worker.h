#ifndef CALIB_CLIENT_CPP_WORKER_H_
#define CALIB_CLIENT_CPP_WORKER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "quant/observe.h"

namespace calib::client {

struct WorkerOptions {
  std::string session;
  // Id of this worker's lineage; empty: a random UUID. Give the same id again to go on where an earlier process
  // stopped, never to two processes at a time: the newer one fences the older.
  std::string worker_id;
  // For people, such as host and rank.
  std::string display_name;
  // Most bytes of raw chunks that are sent or waiting and not durable yet; past it SendRaw blocks. At least 1 MiB.
  size_t raw_window_bytes = 64 << 20;
  // Most rounds of statistics (each everything observed since the one before, in as many messages as it takes) that are
  // sent and not durable yet; past it observations merge into the next one. Bounds memory at this many times the
  // session's statistics, and once more for what is not sent.
  int updates_in_flight = 4;
  // Pause between two rounds: observations within it merge. Flush does not wait for it.
  absl::Duration send_interval = absl::Milliseconds(100);
  // Reconnection: exponential backoff with jitter between these, for ever; Flush and Close have deadlines of their own.
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(10);
};

// A contributor to one session: observes tensors here or sends them raw, exactly once through any number of
// reconnections.
//
// What is observed is merged into one pending update, which a background thread numbers and sends when it may; while
// the server is away it goes on merging, so memory stays bounded however long that takes. What is sent is kept until it
// is durable. After a reconnection everything above the Welcome's `applied` is sent again: statistics merged with what
// came since, raw chunks as they were.
//
// Errors. Data that the server refuses is dropped; the first refusal is reported by status() and by every later Flush
// and Close, and other data goes on. A refusal that is about one layer drops that layer's data alone, and every later
// Observe and SendRaw of the layer fails with it. An error that ends the work makes every later call fail with it:
// SESSION_NOT_FOUND, SESSION_DELETED, SESSION_SEALED with data left to send, SESSION_CONFIG_MISMATCH (deleted and made
// again), WORKER_FENCED, credentials that are not accepted, DATA_LOSS (the server forgot what it had called durable). A
// lost connection, a full or a restarting server is no error: it is tried again.
//
// Thread-safe; observing from several threads runs in parallel up to the merge.
class Worker {
 public:
  // Connects and takes the session's config. Errors are those of the Observe call: SESSION_NOT_FOUND, INVALID_FIELD,
  // ...; UNAVAILABLE after `timeout`, or at once if the client's options say retry_unavailable = false.
  static absl::StatusOr<std::unique_ptr<Worker>> Open(std::shared_ptr<Client> client, const WorkerOptions& options,
                                                      absl::Duration timeout = absl::Seconds(30));
  // Close with a deadline of a second; what is not durable then is lost. Prefer Close, which says whether everything
  // is.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Counts `tensor` into `layer`'s statistics, on the calling thread. A layer that the session skips, or whose observer
  // is passive, is ignored (OK). When the layer's observer depends on order (ema, reference_histogram), one call is one
  // step: `tensor` must be whole, steps are taken in the order of the calls, and a call blocks while the raw window is
  // full; a reference histogram's first one asks the server for its state. Open a new worker after its observer was
  // disabled. STEP_REQUIRED: the layer takes synchronous steps alone, see sync_worker.h. Errors: as
  // TensorObserver::Observe, LAYER_NAME_INVALID, CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW, the layer's refusal, the
  // worker's fatal error; nothing is counted then.
  absl::Status Observe(absl::string_view layer, const TensorView& tensor);
  // Sends `tensor` in chunks for the server to reduce; copies it; blocks while the window is full. Errors as Observe's;
  // when the worker ends or the layer is refused in the middle, chunks before that may have been counted. For a layer
  // whose observer depends on order it is Observe.
  absl::Status SendRaw(absl::string_view layer, const TensorView& tensor);

  // Sends everything observed so far and returns once it is durable. DEADLINE_EXCEEDED after `timeout` (nothing is
  // lost; call again); the worker's fatal error; the first refusal, when everything else is durable.
  absl::Status Flush(absl::Duration timeout = absl::Minutes(5));
  // Flush, then ends the stream; later calls fail. After DEADLINE_EXCEEDED the worker is still open: call again.
  absl::Status Close(absl::Duration timeout = absl::Minutes(5));

  // The session's config, which never changes.
  const SessionConfig& config() const;

  // The fatal error, or the first refusal, or OK. Does not block.
  absl::Status status() const;

  struct Stats {
    uint64_t values_observed = 0;  // locally or sent raw
    uint64_t values_ignored = 0;   // by disabled observers, as the server tells
    uint64_t values_refused = 0;   // dropped because the server refused them
    uint64_t messages_sent = 0;    // updates, repetitions included
    uint64_t bytes_sent = 0;
    uint64_t reconnections = 0;
    uint64_t applied = 0;        // last unit applied
    uint64_t durable = 0;        // last unit durable
    uint64_t pending_bytes = 0;  // kept here because it is not durable
  };
  Stats stats() const;
  const std::string& worker_id() const;

 private:
  class Impl;
  explicit Worker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_WORKER_H_
