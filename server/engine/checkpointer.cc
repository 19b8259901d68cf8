#include "server/engine/checkpointer.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace calib::server {

Checkpointer::Checkpointer(absl::Duration interval, std::function<void()> checkpoint)
    : interval_(interval), checkpoint_(std::move(checkpoint)), thread_([this] { Run(); }) {}

Checkpointer::~Checkpointer() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void Checkpointer::Request() {
  MutexLock lock(&mutex_);
  requested_ = true;
  changed_.Signal();
}

void Checkpointer::Suggest() {
  MutexLock lock(&mutex_);
  if (std::exchange(suggested_, true)) return;
  changed_.Signal();
}

void Checkpointer::Run() {
  const bool periodic = interval_ < absl::InfiniteDuration();
  constexpr int kRest = 19;  // after a run, as many times as long as it took, before a suggestion is followed
  Clock::time_point rested = Clock::now();
  while (true) {
    {
      MutexLock lock(&mutex_);
      const auto next =
          Clock::now() + (periodic ? absl::ToChronoNanoseconds(interval_) : std::chrono::nanoseconds::zero());
      bool due = false;
      while (!requested_ && !stopping_ && !due) {
        if (periodic || suggested_) {
          const Clock::time_point until = !suggested_ ? next : periodic ? std::min(next, rested) : rested;
          changed_.WaitUntil(&mutex_, until);
          due = Clock::now() >= until && (suggested_ || periodic);
        } else {
          changed_.Wait(&mutex_);
        }
      }
      if (stopping_ && !requested_) return;
      requested_ = suggested_ = false;
    }
    const Clock::time_point begin = Clock::now();
    checkpoint_();
    const Clock::time_point end = Clock::now();
    rested = end + kRest * (end - begin);
  }
}

}  // namespace calib::server
