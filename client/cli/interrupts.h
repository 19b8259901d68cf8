#ifndef CALIB_CLIENT_CLI_INTERRUPTS_H_
#define CALIB_CLIENT_CLI_INTERRUPTS_H_

#include <functional>
#include <memory>

namespace calib::cli {

// Ctrl-C and SIGTERM, handled on a thread of its own. Make one a process, before any other thread: the signals are
// blocked on the calling thread and on those that it starts.
//
// The first signal calls the handler, when there is one; every other signal ends the process at once with kExitCode. A
// signal that was ignored when the process started (a background job of a script) stays ignored. Thread-safe.
class Interrupts {
 public:
  static constexpr int kExitCode = 130;

  Interrupts();

  void OnInterrupt(std::function<void()> handler);
  // Whether a signal came.
  bool interrupted() const;

 private:
  struct State;
  static void Serve(std::shared_ptr<State> state);

  // Shared with the thread, which lives until the process ends.
  const std::shared_ptr<State> state_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_INTERRUPTS_H_
