#ifndef CALIB_TESTS_E2E_CRASH_WORKER_LOG_H_
#define CALIB_TESTS_E2E_CRASH_WORKER_LOG_H_

#include <cstdint>
#include <string>

namespace calib::test {

// What a worker's file says, over all of its processes.
struct WorkerLog {
  uint64_t begun = 0;    // last step that it was about to observe
  uint64_t durable = 0;  // last step that it was told is durable
  bool done = false;     // it closed; everything is durable
};

// A file that is not there says nothing.
WorkerLog ReadWorkerLog(const std::string& path);

// Appends to the file before it returns, so that a killed worker has said everything that it did. Also to stdout, for
// those who wait for it. Ends the program when it can't.
class WorkerLogWriter {
 public:
  explicit WorkerLogWriter(const std::string& path);
  ~WorkerLogWriter();
  WorkerLogWriter(const WorkerLogWriter&) = delete;
  WorkerLogWriter& operator=(const WorkerLogWriter&) = delete;

  void Begin(uint64_t step);
  void Durable(uint64_t step);
  void Done();

 private:
  void Write(const std::string& line) const;
  int file_ = -1;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_WORKER_LOG_H_
