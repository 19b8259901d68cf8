#ifndef CALIB_SERVER_ENGINE_OBSERVER_POOL_H_
#define CALIB_SERVER_ENGINE_OBSERVER_POOL_H_

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "quant/observe.h"
#include "server/base/mutex.h"

namespace calib::server {

// Lends TensorObservers, which hold half a megabyte each, to whoever reduces a raw chunk: as many exist as were ever in
// use at once. Thread-safe.
class ObserverPool {
 public:
  // An observer that goes back to the pool at the end of its life. The pool must outlive it.
  class Lease {
   public:
    Lease(ObserverPool* pool, std::unique_ptr<TensorObserver> observer);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    TensorObserver* operator->() { return observer_.get(); }

   private:
    ObserverPool* const pool_;
    std::unique_ptr<TensorObserver> observer_;
  };

  Lease Acquire() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Mutex mutex_;
  std::vector<std::unique_ptr<TensorObserver>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_OBSERVER_POOL_H_
