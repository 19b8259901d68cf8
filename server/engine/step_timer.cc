#include "server/engine/step_timer.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "server/engine/session.h"

namespace calib::server {

StepTimer::StepTimer(const Clock* clock, std::function<void(const std::shared_ptr<Session>&)> expire)
    : clock_(clock), expire_(std::move(expire)), thread_([this] { Run(); }) {}

StepTimer::~StepTimer() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

void StepTimer::Set(const std::shared_ptr<Session>& session, absl::Duration deadline) {
  MutexLock lock(&mutex_);
  const auto [entry, added] = entries_.emplace(session.get(), Entry{session, deadline});
  if (!added) {
    // Another session may have had this address.
    entry->second.session = session;
    if (entry->second.deadline <= deadline) return;
    entry->second.deadline = deadline;
  }
  changed_.SignalAll();
}

void StepTimer::Run() {
  while (true) {
    std::vector<std::shared_ptr<Session>> due;
    {
      MutexLock lock(&mutex_);
      if (stopping_) return;
      const absl::Duration now = clock_->Elapsed();
      absl::Duration next = absl::InfiniteDuration();
      for (auto entry = entries_.begin(); entry != entries_.end();) {
        if (entry->second.deadline > now) {
          next = std::min(next, entry->second.deadline);
          ++entry;
          continue;
        }
        if (std::shared_ptr<Session> session = entry->second.session.lock(); session != nullptr) {
          due.push_back(std::move(session));
        }
        entry = entries_.erase(entry);
      }
      if (due.empty()) {
        if (next == absl::InfiniteDuration()) {
          changed_.Wait(&mutex_);
        } else {
          // A deadline of centuries would overflow the clock.
          const absl::Duration wait = std::min(next - now, absl::Hours(1));
          changed_.WaitUntil(&mutex_, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(wait));
        }
        continue;
      }
    }
    for (const std::shared_ptr<Session>& session : due) expire_(session);
  }
}

}  // namespace calib::server
