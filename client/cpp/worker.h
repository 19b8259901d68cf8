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
  // Id of this worker's lineage; empty: a random UUID. Give the same id again to go on where an earlier process stopped.
  std::string worker_id;
  // For people, such as host and rank.
  std::string display_name;
  // Most bytes of raw chunks that are sent or waiting and not durable yet; past it SendRaw blocks. At least 1 MiB.
  size_t raw_window_bytes = 64 << 20;
  // Most statistics updates that are sent and not durable yet; past it observations merge into the next one. Bounds memory at
  // this many times the session's statistics.
  int updates_in_flight = 4;
  // Pause between two statistics updates: observations within it merge into one message.
  absl::Duration send_interval = absl::Milliseconds(100);
  // Reconnection: exponential backoff with jitter between these, for ever; Flush and Close have deadlines of their own.
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(10);
};

// A contributor to one session: observes tensors here or sends them raw, exactly once through any number of reconnections.
//
// What is observed is merged into one pending update, which a background thread numbers and sends when it may; while the server is
// away it goes on merging, so memory stays bounded however long that takes. What is sent is kept until it is durable. After a
// reconnection everything above the Welcome's `applied` is sent again: statistics merged into one update, raw chunks as they were.
//
// Errors. A refused update is dropped and reported by every later Flush and Close, and by status(); other data goes on. An
// error that ends the work (WORKER_FENCED, SESSION_DELETED, DATA_LOSS: the server forgot what it had called durable) makes
// every later call fail with it. A lost connection is no error.
//
// Thread-safe; observing from several threads runs in parallel up to the merge.
class Worker {
 public:
  // Connects and takes the session's config. Errors are those of the Observe call: SESSION_NOT_FOUND, UNAVAILABLE after
  // `timeout`, ...
  static absl::StatusOr<std::unique_ptr<Worker>> Open(std::shared_ptr<Client> client, const WorkerOptions& options,
                                                      absl::Duration timeout = absl::Seconds(30));
  // Close with a short deadline; prefer Close, which says whether everything is durable.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Counts `tensor` into `layer`'s statistics, on the calling thread. A layer that the session skips is ignored (OK). Errors: as
  // TensorObserver::Observe, LAYER_NAME_INVALID, the session's fatal error; nothing is counted then.
  absl::Status Observe(absl::string_view layer, const TensorView& tensor);
  // Sends `tensor` in chunks for the server to reduce; copies it; blocks while the window is full.
  absl::Status SendRaw(absl::string_view layer, const TensorView& tensor);

  // Sends everything observed so far and returns once it is durable. DEADLINE_EXCEEDED after `timeout` (nothing is lost; call again);
  // the first refusal since the last Flush; a fatal error.
  absl::Status Flush(absl::Duration timeout = absl::Minutes(5));
  // Flush, then ends the stream. No calls after it.
  absl::Status Close(absl::Duration timeout = absl::Minutes(5));

  // The fatal error, or the first refusal, or OK. Does not block.
  absl::Status status() const;

  struct Stats {
    uint64_t values_observed = 0;   // locally or sent raw
    uint64_t values_ignored = 0;    // by disabled observers, as the server tells
    uint64_t messages_sent = 0;     // updates, repetitions included
    uint64_t bytes_sent = 0;
    uint64_t reconnections = 0;
    uint64_t applied = 0;           // last unit applied
    uint64_t durable = 0;           // last unit durable
    uint64_t pending_bytes = 0;     // kept here because it is not durable
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
