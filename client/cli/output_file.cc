#include "client/cli/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace calib::cli {
namespace {

absl::Status ExistsError(const std::string& path) {
  return absl::AlreadyExistsError(absl::StrCat(path, ": exists; give --force to replace it, or choose another name"));
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

// What is replaced: not a link, but what it leads to.
absl::StatusOr<std::string> TargetOf(const std::string& path) {
  const std::unique_ptr<char, decltype(&free)> target(realpath(path.c_str(), nullptr), &free);
  if (target == nullptr) return absl::ErrnoToStatus(errno, path);
  return std::string(target.get());
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path, bool overwrite) {
  if (path == "-") return std::unique_ptr<OutputFile>(new OutputFile(path, "", STDOUT_FILENO, overwrite));
  struct stat found;
  const bool exists = stat(path.c_str(), &found) == 0;
  std::string place = path;
  if (exists) {
    if (!S_ISREG(found.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, ": is not a plain file"));
    if (!overwrite) return ExistsError(path);
    absl::StatusOr<std::string> target = TargetOf(path);
    if (!target.ok()) return target.status();
    place = *std::move(target);
  }
  std::string temporary_path = absl::StrCat(place, ".part-", getpid(), "-", absl::GetCurrentTimeNanos());
  const int file = open(temporary_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) return absl::ErrnoToStatus(errno, temporary_path);
  std::unique_ptr<OutputFile> output(new OutputFile(place, std::move(temporary_path), file, overwrite));
  if (exists && fchmod(file, found.st_mode & 0777) != 0) return output->Error();
  return output;
}

OutputFile::~OutputFile() {
  if (temporary_path_.empty()) return;
  close(file_);
  if (!committed_) unlink(temporary_path_.c_str());
}

absl::Status OutputFile::Error() const { return absl::ErrnoToStatus(errno, path_ == "-" ? "standard output" : path_); }

absl::Status OutputFile::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Error();
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Commit() {
  if (temporary_path_.empty()) return absl::OkStatus();
  if (fsync(file_) != 0) return Error();
  if (overwrite_) {
    if (rename(temporary_path_.c_str(), path_.c_str()) != 0) return Error();
  } else {
    // Unlike rename, this does not replace what came there meanwhile.
    if (link(temporary_path_.c_str(), path_.c_str()) == 0) {
      unlink(temporary_path_.c_str());
    } else if (errno == EEXIST) {
      return ExistsError(path_);
    } else if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {  // not every file system has links
      return Error();
    }
  }
  committed_ = true;
  const int folder = open(FolderOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return absl::OkStatus();                    // the file is there; this one may not be read
  const bool failed = fsync(folder) != 0 && errno != EINVAL;  // not every file system can
  const int error = errno;
  close(folder);
  errno = error;
  return failed ? Error() : absl::OkStatus();
}

}  // namespace calib::cli
