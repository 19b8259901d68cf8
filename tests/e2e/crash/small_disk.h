#ifndef CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_
#define CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_

#include <atomic>
#include <string>
#include <thread>

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

  // Fills it, and from then on takes whatever room others make within about a millisecond: a store that
  // failed frees some as it tries again.
  void Fill();
  // Gives all of that back.
  void MakeRoom();
  void MakeReadOnly() const;

 private:
  // Writes until there is no space.
  void WriteFiller() const;

  const std::string path_;
  absl::Status status_;
  std::atomic<bool> filling_ = false;
  std::thread filler_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_SMALL_DISK_H_
