#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace calib::test {
namespace {

// Pointers to the strings, as exec takes them. Borrows.
std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::vector<std::string>& added) {
  std::vector<std::string> all = added;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string name(*entry, std::strcspn(*entry, "=") + 1);
    bool replaced = false;
    for (const std::string& other : added) replaced = replaced || other.compare(0, name.size(), name) == 0;
    if (!replaced) all.push_back(*entry);
  }
  return all;
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, const std::vector<std::string>& environment)
    : name_(argv.at(0)) {
  // Everything that allocates is done before the fork: after it, another thread's lock may stay held for ever.
  const std::vector<std::string> all_environment = Environment(environment);
  const std::vector<char*> arguments = Pointers(argv), variables = Pointers(all_environment);
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) Die(std::strerror(errno));
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0) Die(std::strerror(errno));
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execve(arguments[0], arguments.data(), variables.data());
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);
  stdin_ = in[1];
  collector_ = std::thread(&Process::Collect, this, out[0], err[0]);
}

Process::~Process() {
  Signal(SIGKILL);
  collector_.join();
  close(stdin_);
}

void Process::Collect(int out, int err) {
  pollfd pipes[] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  while (pipes[0].fd >= 0 || pipes[1].fd >= 0) {
    if (poll(pipes, 2, -1) < 0) continue;
    for (pollfd& pipe : pipes) {
      if (pipe.fd < 0 || pipe.revents == 0) continue;
      char buffer[4096];
      const ssize_t n = read(pipe.fd, buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        close(pipe.fd);
        pipe.fd = -1;
        continue;
      }
      absl::MutexLock lock(&mutex_);
      (&pipe == &pipes[0] ? result_.out : result_.err).append(buffer, static_cast<size_t>(n));
    }
  }
  siginfo_t info;
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  // Reaped under the lock, so that Signal never meets another process of the same id.
  absl::MutexLock lock(&mutex_);
  int status = 0;
  waitpid(pid_, &status, 0);
  result_.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  ended_ = true;
}

bool Process::WaitForOutput(const std::string& text, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  return WaitForText(result_.out, text, timeout);
}

bool Process::WaitForError(const std::string& text, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  return WaitForText(result_.err, text, timeout);
}

bool Process::WaitForText(const std::string& stream, const std::string& text, absl::Duration timeout) {
  const auto found = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ended_ || stream.find(text) != std::string::npos;
  };
  mutex_.AwaitWithTimeout(absl::Condition(&found), timeout);
  return stream.find(text) != std::string::npos;
}

std::string Process::WaitForAddress(const std::string& name, absl::Duration timeout) {
  const auto ready_line = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const size_t ready = result_.out.find(" ready ");
    const size_t end = ready == std::string::npos ? ready : result_.out.find('\n', ready);
    if (end == std::string::npos) return std::string();
    const size_t begin = result_.out.rfind('\n', ready) + 1;  // npos + 1 is 0
    return result_.out.substr(begin, end - begin);
  };
  std::string line;
  {
    absl::MutexLock lock(&mutex_);
    const auto is_over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ended_ || !ready_line().empty(); };
    mutex_.AwaitWithTimeout(absl::Condition(&is_over), timeout);
    line = ready_line();
  }
  if (line.empty()) Die("is not ready in time");
  const size_t begin = line.find(" " + name + "=");
  if (begin == std::string::npos) Die("prints no address " + name + ": " + line);
  const size_t value = begin + name.size() + 2;
  return line.substr(value, line.find(' ', value) - value);
}

void Process::Signal(int number) {
  absl::MutexLock lock(&mutex_);
  if (!ended_) kill(pid_, number);
}

void Process::AwaitStop() {
  siginfo_t info;
  while (running() && waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WEXITED | WNOWAIT) != 0 &&
         errno == EINTR) {
  }
}

ProcessResult Process::Wait(absl::Duration timeout) {
  {
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&ended_), timeout)) return result_;
  }
  Die("did not end in time");
}

bool Process::running() const {
  absl::MutexLock lock(&mutex_);
  return !ended_;
}

std::string Process::out() const {
  absl::MutexLock lock(&mutex_);
  return result_.out;
}

std::string Process::err() const {
  absl::MutexLock lock(&mutex_);
  return result_.err;
}

void Process::Die(const std::string& what) const {
  absl::MutexLock lock(&mutex_);
  std::fprintf(stderr, "%s (process %d): %s\nstdout:\n%s\nstderr:\n%s\n", name_.c_str(), pid_, what.c_str(),
               result_.out.c_str(), result_.err.c_str());
  std::abort();
}

ProcessResult RunProcess(const std::vector<std::string>& argv, const std::vector<std::string>& environment,
                         absl::Duration timeout) {
  Process process(argv, environment);
  return process.Wait(timeout);
}

}  // namespace calib::test
