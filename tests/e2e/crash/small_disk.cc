#include "tests/e2e/crash/small_disk.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

namespace calib::test {
namespace {

void RequireDone(bool done, const std::string& what) {
  if (done) return;
  std::perror(what.c_str());
  std::abort();
}

absl::Status Mount(const std::string& path, int mebibytes) {
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", path.c_str(), "tmpfs", 0, absl::StrCat("size=", mebibytes, "m").c_str()) != 0) {
    return absl::PermissionDeniedError(absl::StrCat("a small disk can't be mounted here: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace

SmallDisk::SmallDisk(const std::string& path, int mebibytes) : path_(path) {
  RequireDone(mkdir(path.c_str(), 0755) == 0, path);
  status_ = Mount(path, mebibytes);
}

SmallDisk::~SmallDisk() {
  if (filling_) MakeRoom();
  if (status_.ok()) umount2(path_.c_str(), MNT_DETACH);
}

void SmallDisk::Fill() {
  WriteFiller();
  filling_ = true;
  filler_ = std::thread([this] {
    while (filling_) {
      usleep(1000);
      WriteFiller();
    }
  });
}

void SmallDisk::WriteFiller() const {
  const std::string path = path_ + "/filler";
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  RequireDone(file >= 0 || errno == ENOSPC, path);
  const std::vector<char> block(4096);
  ssize_t written = 0;
  while (file >= 0 && (written = write(file, block.data(), block.size())) > 0) {
  }
  RequireDone(written >= 0 || errno == ENOSPC, path);
  if (file >= 0) close(file);
}

void SmallDisk::MakeRoom() {
  filling_ = false;
  filler_.join();
  RequireDone(unlink((path_ + "/filler").c_str()) == 0, path_);
}

void SmallDisk::MakeReadOnly() const {
  RequireDone(mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0, path_);
}

}  // namespace calib::test
