#ifndef CALIB_SERVER_ENGINE_CHECKPOINTER_H_
#define CALIB_SERVER_ENGINE_CHECKPOINTER_H_

#include <chrono>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "server/base/mutex.h"

namespace calib::server {

// A thread that calls `checkpoint` every interval, soon after each Request(), and after each Suggest() as soon as that
// leaves most of the time to other work. Those that arrive while one runs are served by one more run after it.
// Thread-safe.
class Checkpointer {
 public:
  // `interval` may be infinite: then only on request.
  Checkpointer(absl::Duration interval, std::function<void()> checkpoint);
  // Waits for a run under way; serves requests that were not yet begun.
  ~Checkpointer();

  // Somebody waits for it.
  void Request() ABSL_LOCKS_EXCLUDED(mutex_);
  // It would be good: what is suggested takes a twentieth of the time at most, however slow a checkpoint is.
  void Suggest() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Clock = std::chrono::steady_clock;

  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const absl::Duration interval_;
  const std::function<void()> checkpoint_;

  Mutex mutex_;
  CondVar changed_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool suggested_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_CHECKPOINTER_H_
