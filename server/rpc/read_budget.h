#ifndef CALIB_SERVER_RPC_READ_BUDGET_H_
#define CALIB_SERVER_RPC_READ_BUDGET_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/base/mutex.h"

namespace calib::server {

// Bounds the bytes of messages that all streams together have read and not yet processed. A message's size is known
// only once it is read, so the bound may be passed by what was being read when it was reached: one message a stream.
// Thread-safe.
class ReadBudget {
 public:
  // REQUIRES: max_bytes > 0.
  explicit ReadBudget(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Whether a stream may read on. If not, `resume` is called once, from another thread, when it should ask again: as
  // soon as half of the budget is free.
  bool MayRead(std::function<void()> resume) ABSL_LOCKS_EXCLUDED(mutex_);

  // A message of this size was read; it was processed or dropped. Release may call `resume`s: not to be called under a
  // lock that they take.
  void Acquire(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Release(size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const size_t max_bytes_;

  Mutex mutex_;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> waiting_
      ABSL_GUARDED_BY(mutex_);  // not empty: bytes_ was at max_bytes_ and not below half since
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_READ_BUDGET_H_
