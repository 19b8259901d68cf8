#ifndef CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_
#define CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_

#include <string>

#include "absl/status/status.h"

namespace calib::test {

// A file system of bounded size (tmpfs), which the calling thread, and the threads and processes that it starts from
// then on, see alone.
class SmallDisk {
 public:
  // Mounts it at `path`, which is made.
  SmallDisk(const std::string& path, int mebibytes);
  ~SmallDisk();
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  // PERMISSION_DENIED when this process may not mount; it is of no use then.
  const absl::Status& status() const { return status_; }

  // Writes a file until there is no space; removes it.
  void Fill() const;
  void MakeRoom() const;
  void MakeReadOnly() const;

 private:
  const std::string path_;
  absl::Status status_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_
