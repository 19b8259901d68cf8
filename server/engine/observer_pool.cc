#include "server/engine/observer_pool.h"

#include <utility>

namespace calib::server {

ObserverPool::Lease::Lease(ObserverPool* pool, std::unique_ptr<TensorObserver> observer)
    : pool_(pool), observer_(std::move(observer)) {}

ObserverPool::Lease::~Lease() {
  MutexLock lock(&pool_->mutex_);
  pool_->idle_.push_back(std::move(observer_));
}

ObserverPool::Lease ObserverPool::Acquire() {
  {
    MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<TensorObserver> observer = std::move(idle_.back());
      idle_.pop_back();
      return Lease(this, std::move(observer));
    }
  }
  return Lease(this, std::make_unique<TensorObserver>());
}

}  // namespace calib::server
