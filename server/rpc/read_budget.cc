#include "server/rpc/read_budget.h"

#include <utility>

namespace calib::server {

bool ReadBudget::MayRead(std::function<void()> resume) {
  MutexLock lock(&mutex_);
  if (bytes_ < max_bytes_) return true;
  waiting_.push_back(std::move(resume));
  return false;
}

void ReadBudget::Acquire(size_t bytes) {
  MutexLock lock(&mutex_);
  bytes_ += bytes;
}

void ReadBudget::Release(size_t bytes) {
  std::vector<std::function<void()>> resumed;
  {
    MutexLock lock(&mutex_);
    bytes_ -= bytes;
    if (bytes_ <= max_bytes_ / 2) resumed.swap(waiting_);
  }
  for (const std::function<void()>& resume : resumed) resume();
}

}  // namespace calib::server
