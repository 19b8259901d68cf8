#ifndef CALIB_SERVER_BASE_THREAD_POOL_H_
#define CALIB_SERVER_BASE_THREAD_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/base/mutex.h"

namespace calib::server {

// Threads that run tasks in the order in which they were scheduled. The queue has no bound of its own: each caller
// bounds what it has scheduled (a stream: its two messages; the query side: its calls). Thread-safe.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  // Runs everything that was scheduled, then ends.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Schedule(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  std::vector<std::thread> threads_;  // constant after construction

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_THREAD_POOL_H_
