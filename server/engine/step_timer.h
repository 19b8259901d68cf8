#ifndef CALIB_SERVER_ENGINE_STEP_TIMER_H_
#define CALIB_SERVER_ENGINE_STEP_TIMER_H_

#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace calib::server {

class Session;

// A thread that calls `expire` for each session once the deadline of its synchronous steps has passed. Thread-safe.
class StepTimer {
 public:
  // `expire` runs on the timer's thread.
  StepTimer(const Clock* clock, std::function<void(const std::shared_ptr<Session>&)> expire);
  ~StepTimer();

  // `deadline` is on the clock's Elapsed(). A session has one deadline, the earliest that was set since it last
  // expired; one that is not true any more only makes `expire` look in vain.
  void Set(const std::shared_ptr<Session>& session, absl::Duration deadline) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const Clock* const clock_;
  const std::function<void(const std::shared_ptr<Session>&)> expire_;

  Mutex mutex_;
  CondVar changed_;
  struct Entry {
    std::weak_ptr<Session> session;
    absl::Duration deadline;
  };
  std::map<const Session*, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STEP_TIMER_H_
