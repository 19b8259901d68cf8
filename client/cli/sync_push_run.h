#ifndef CALIB_CLIENT_CLI_SYNC_PUSH_RUN_H_
#define CALIB_CLIENT_CLI_SYNC_PUSH_RUN_H_

#include <atomic>
#include <cstdint>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/cli/push_plan.h"
#include "client/cpp/client.h"
#include "client/cpp/sync_worker.h"

namespace calib::cli {

struct SyncPushOptions {
  std::string session;
  uint32_t ranks = 1;               // of the world: each step is split over as many
  std::vector<uint32_t> own_ranks;  // that this process is
  // How long a rank waits for the server and for the other ranks without any progress.
  absl::Duration timeout = absl::Seconds(30);
};

// Contributes to synchronous steps as one or more ranks, each with a thread, a connection and a random worker id of its
// own, from the first step on that the session has not folded. A step that failed because ranks came too late is tried
// again. The first error of any rank stops all. Thread-safe.
class SyncPushRun {
 public:
  struct Totals {
    uint64_t first_step = 0;  // that was contributed to by any rank; 0: none was left
    uint64_t last_step = 0;
    uint64_t values = 0;
    uint64_t bytes = 0;  // of these
    uint64_t bytes_sent = 0;
    uint64_t reconnections = 0;
    uint64_t not_counted = 0;  // contributions that came late
  };

  // Starts. `sources` must outlive this.
  SyncPushRun(const client::ClientOptions& client, const SyncPushOptions& options,
              absl::Span<const PushSource> sources);
  // Stops and waits.
  ~SyncPushRun();
  SyncPushRun(const SyncPushRun&) = delete;
  SyncPushRun& operator=(const SyncPushRun&) = delete;

  // Ends early: no rank waits for its step any more; what is folded is still made durable.
  void Stop() { stop_.request_stop(); }
  // Whether all ranks are done, after waiting for it up to `timeout`.
  bool WaitDone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);

  // Bytes of the files that this process has to contribute, and those of steps that are folded.
  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t done_bytes() const { return done_bytes_; }
  uint64_t steps() const { return steps_; }  // of the files

  // OK when everything is folded and durable, or stopped; else the first error. REQUIRES: WaitDone() was true.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // REQUIRES: WaitDone() was true.
  Totals totals() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void RunRank(uint32_t rank) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status PushSteps(uint32_t rank, client::SyncWorker* worker) ABSL_LOCKS_EXCLUDED(mutex_);
  // Contributes the rank's part of a step. OK also when the step is to be looked up anew: worker->next_step() says
  // which.
  absl::Status PushStep(uint32_t rank, uint64_t step, absl::Time deadline, client::SyncWorker* worker)
      ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t BytesOfStep(uint32_t rank, uint64_t step) const;
  // `status` with the ranks that are awaited.
  absl::Status NameMissing(const absl::Status& status) const;

  const client::ClientOptions client_options_;
  const SyncPushOptions options_;
  const absl::Span<const PushSource> sources_;
  const uint64_t steps_;
  const uint64_t total_bytes_;
  std::stop_source stop_;
  std::atomic<uint64_t> done_bytes_ = 0;

  mutable absl::Mutex mutex_;
  size_t running_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  Totals totals_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SYNC_PUSH_RUN_H_
