#include "tests/e2e/crash/worker_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace calib::test {
namespace {

constexpr char kBegin[] = "begin ";
constexpr char kDurable[] = "durable ";
constexpr char kDone[] = "done";

}  // namespace

WorkerLog ReadWorkerLog(const std::string& path) {
  WorkerLog log;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && !file.eof();) {  // not the last one, if its end is missing
    absl::string_view rest = line;
    uint64_t step = 0;
    if (absl::ConsumePrefix(&rest, kBegin) && absl::SimpleAtoi(rest, &step)) log.begun = std::max(log.begun, step);
    if (absl::ConsumePrefix(&rest, kDurable) && absl::SimpleAtoi(rest, &step)) log.durable = step;
    if (line == kDone) log.done = true;
  }
  return log;
}

WorkerLogWriter::WorkerLogWriter(const std::string& path)
    : file_(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (file_ >= 0) return;
  std::perror(path.c_str());
  std::exit(1);
}

WorkerLogWriter::~WorkerLogWriter() { close(file_); }

void WorkerLogWriter::Begin(uint64_t step) { Write(absl::StrCat(kBegin, step, "\n")); }
void WorkerLogWriter::Durable(uint64_t step) { Write(absl::StrCat(kDurable, step, "\n")); }
void WorkerLogWriter::Done() { Write(absl::StrCat(kDone, "\n")); }

void WorkerLogWriter::Write(const std::string& line) const {
  for (const int file : {file_, STDOUT_FILENO}) {
    if (write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size())) continue;
    std::perror("worker log");
    std::exit(1);
  }
}

}  // namespace calib::test
