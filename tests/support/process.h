#ifndef CALIB_TESTS_SUPPORT_PROCESS_H_
#define CALIB_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace calib::test {

// How a process ended and what it printed.
struct ProcessResult {
  int exit_code = 0;  // 128 + the signal's number when a signal ended it
  std::string out;
  std::string err;
};

// A child process with pipes for stdin, stdout and stderr. It never outlives this object, nor the thread that made it.
// What goes wrong in starting one, or takes too long, ends the test program with a message. Thread-safe.
class Process {
 public:
  // Starts the program at argv[0]. `environment` has "NAME=value" entries that are set beside those of this process.
  explicit Process(const std::vector<std::string>& argv, const std::vector<std::string>& environment = {});
  // Kills it if it still runs.
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // The address in the line "... ready NAME=HOST:PORT ..." that a server prints to stdout.
  std::string WaitForAddress(const std::string& name, absl::Duration timeout = absl::Seconds(60))
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether `text` came on stdout within `timeout`, and before the process ended.
  bool WaitForOutput(const std::string& text, absl::Duration timeout = absl::Seconds(60)) ABSL_LOCKS_EXCLUDED(mutex_);
  // The same of stderr.
  bool WaitForError(const std::string& text, absl::Duration timeout = absl::Seconds(60)) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sends a signal, unless it has ended.
  void Signal(int number) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until a SIGSTOP that was sent, or that it said it would raise, has stopped it; or until it has ended.
  void AwaitStop() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until it has ended.
  ProcessResult Wait(absl::Duration timeout = absl::Seconds(60)) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether it still runs.
  bool running() const ABSL_LOCKS_EXCLUDED(mutex_);
  // What it printed to stdout, and to stderr, so far.
  std::string out() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::string err() const ABSL_LOCKS_EXCLUDED(mutex_);
  pid_t pid() const { return pid_; }

 private:
  bool WaitForText(const std::string& stream, const std::string& text, absl::Duration timeout)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Collect(int out, int err) ABSL_LOCKS_EXCLUDED(mutex_);
  [[noreturn]] void Die(const std::string& what) const ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string name_;
  pid_t pid_ = -1;
  int stdin_ = -1;
  mutable absl::Mutex mutex_;
  ProcessResult result_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread collector_;
};

// Runs a program to its end.
ProcessResult RunProcess(const std::vector<std::string>& argv, const std::vector<std::string>& environment = {},
                         absl::Duration timeout = absl::Seconds(60));

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_PROCESS_H_
