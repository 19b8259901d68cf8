#include "client/cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace calib::cli {

struct Interrupts::State {
  sigset_t signals;
  absl::Mutex mutex;
  bool interrupted ABSL_GUARDED_BY(mutex) = false;
  std::function<void()> handler ABSL_GUARDED_BY(mutex);
};

Interrupts::Interrupts() : state_(std::make_shared<State>()) {
  sigemptyset(&state_->signals);
  bool any = false;
  for (const int number : {SIGINT, SIGTERM}) {
    struct sigaction action = {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    sigaddset(&state_->signals, number);
    any = true;
  }
  if (!any) return;
  pthread_sigmask(SIG_BLOCK, &state_->signals, nullptr);
  std::thread(&Interrupts::Serve, state_).detach();
}

void Interrupts::OnInterrupt(std::function<void()> handler) {
  absl::MutexLock lock(&state_->mutex);
  state_->handler = std::move(handler);
}

bool Interrupts::interrupted() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->interrupted;
}

void Interrupts::Serve(std::shared_ptr<State> state) {
  for (;;) {
    int number = 0;
    if (sigwait(&state->signals, &number) != 0) continue;
    std::function<void()> handler;
    {
      absl::MutexLock lock(&state->mutex);
      if (!state->interrupted) handler = state->handler;
      state->interrupted = true;
    }
    if (!handler) _exit(kExitCode);
    handler();
  }
}

}  // namespace calib::cli
