#ifndef CALIB_CLIENT_CLI_PUSH_RUN_H_
#define CALIB_CLIENT_CLI_PUSH_RUN_H_

#include <atomic>
#include <cstdint>
#include <memory>
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
#include "client/cpp/worker.h"

namespace calib::cli {

struct PushOptions {
  std::string session;
  int ranks = 1;
  bool raw = false;  // send the elements; else statistics made here
  // How long a rank waits for the server without any progress.
  absl::Duration timeout = absl::Seconds(30);
};

// Pushes steps by `ranks` workers at once, each with a thread, a connection and a random worker id of its own. The
// first error of any of them stops all. Thread-safe.
class PushRun {
 public:
  struct Totals {
    uint64_t values = 0;  // read and handed to the workers
    uint64_t bytes = 0;   // of these
    uint64_t values_ignored = 0;
    uint64_t bytes_sent = 0;
    uint64_t reconnections = 0;
  };

  // Starts. `sources` and `steps` must outlive this.
  PushRun(const client::ClientOptions& client, const PushOptions& options, absl::Span<const PushSource> sources,
          absl::Span<const PushStep> steps);
  // Stops and waits.
  ~PushRun();
  PushRun(const PushRun&) = delete;
  PushRun& operator=(const PushRun&) = delete;

  // Ends early: no more steps are read; what was read is still made durable.
  void Stop() { stopping_ = true; }
  // Whether all ranks are done, after waiting for it up to `timeout`.
  bool WaitDone(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // Bytes of the files that are dealt with: observed here, or sent raw and durable.
  uint64_t done_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);

  // OK when everything that was read is durable; else the first error, which says what was pushed. REQUIRES: WaitDone()
  // was true.
  absl::Status status() const ABSL_LOCKS_EXCLUDED(mutex_);
  // REQUIRES: WaitDone() was true.
  Totals totals() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void RunRank(int rank) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetWorker(int rank, client::Worker* worker) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status PushSteps(int rank, client::Worker* worker);
  absl::Status PushPart(const PushSource& source, const PushStep& step, const ElementRun& part,
                        std::vector<uint8_t>* buffer, client::Worker* worker);
  // Waits until everything that was pushed is durable, for as long as there is progress.
  absl::Status WaitDurable(client::Worker* worker) const;

  const client::ClientOptions client_options_;
  const PushOptions options_;
  const absl::Span<const PushSource> sources_;
  const absl::Span<const PushStep> steps_;
  const uint64_t raw_window_bytes_;  // of each rank

  std::atomic<bool> stopping_ = false;
  std::atomic<uint64_t> values_ = 0;
  std::atomic<uint64_t> bytes_ = 0;

  mutable absl::Mutex mutex_;
  int running_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  Totals totals_ ABSL_GUARDED_BY(mutex_);
  std::vector<client::Worker*> workers_
      ABSL_GUARDED_BY(mutex_);  // of each rank; null before it is open and after its end
  std::vector<std::thread> threads_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_PUSH_RUN_H_
