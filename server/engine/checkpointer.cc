#include "server/engine/checkpointer.h"

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

void Checkpointer::Run() {
  const bool periodic = interval_ < absl::InfiniteDuration();
  while (true) {
    {
      MutexLock lock(&mutex_);
      const auto next = std::chrono::steady_clock::now() +
                        (periodic ? absl::ToChronoNanoseconds(interval_) : std::chrono::nanoseconds::zero());
      bool due = false;
      while (!requested_ && !stopping_ && !due) {
        if (periodic) {
          due = !changed_.WaitUntil(&mutex_, next);
        } else {
          changed_.Wait(&mutex_);
        }
      }
      if (stopping_ && !requested_) return;
      requested_ = false;
    }
    checkpoint_();
  }
}

}  // namespace calib::server
