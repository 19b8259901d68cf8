#ifndef CALIB_TESTS_STORE_FAILING_DISK_H_
#define CALIB_TESTS_STORE_FAILING_DISK_H_

#include <memory>

#include "rocksdb/env.h"

namespace calib::server::test {

// What a write or a sync that fails has done.
enum class Failure {
  kNothing,  // nothing
  kTorn,     // half of the write
  kLate,     // all of it: only the answer is an error
};

class FailingFiles;

// The system's files, whose writes and syncs fail when told. Thread-safe.
class FailingDisk {
 public:
  FailingDisk();
  ~FailingDisk();

  rocksdb::Env* env() { return env_.get(); }

  // After `operations` more writes and syncs that succeed, all fail (`once`: one fails), until Repair. `full`: for lack
  // of space.
  void FailAfter(int operations, Failure failure, bool once, bool full);
  void Repair();
  // Whether any has failed since FailAfter.
  bool failed() const;

 private:
  const std::shared_ptr<FailingFiles> files_;
  const std::unique_ptr<rocksdb::Env> env_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_STORE_FAILING_DISK_H_
