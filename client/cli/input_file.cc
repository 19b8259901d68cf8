#include "client/cli/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "proto/codec/state_file.h"

namespace calib::cli {
namespace {

constexpr char kStandardInput[] = "standard input";

// Bytes up to the file's end or a chunk's size.
absl::StatusOr<std::string> ReadChunk(const std::string& path, FILE* file) {
  std::string bytes(kMaxStateChunkBytes, '\0');
  bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
  if (ferror(file) != 0) return absl::ErrnoToStatus(errno, path);
  return bytes;
}

absl::Status Spool(FILE* to) {
  while (true) {
    const absl::StatusOr<std::string> bytes = ReadChunk(kStandardInput, stdin);
    if (!bytes.ok()) return bytes.status();
    if (bytes->empty()) break;
    if (fwrite(bytes->data(), 1, bytes->size(), to) != bytes->size())
      return absl::ErrnoToStatus(errno, "temporary file");
  }
  if (fflush(to) != 0) return absl::ErrnoToStatus(errno, "temporary file");
  rewind(to);
  return absl::OkStatus();
}

// Null with errno set. A pipe that nobody writes to is opened, too, so that it can be refused.
FILE* OpenFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return nullptr;
  FILE* const file = fdopen(descriptor, "rb");
  if (file == nullptr) close(descriptor);
  return file;
}

}  // namespace

absl::StatusOr<std::unique_ptr<InputFile>> InputFile::Open(const std::string& path) {
  const bool standard = path == "-";
  FILE* const file = standard ? tmpfile() : OpenFile(path);
  if (file == nullptr) return absl::ErrnoToStatus(errno, standard ? "temporary file" : path);
  std::unique_ptr<InputFile> input(new InputFile(standard ? kStandardInput : path, file));
  if (standard) {
    if (const absl::Status spooled = Spool(file); !spooled.ok()) return spooled;
  }
  struct stat found;
  if (fstat(fileno(file), &found) != 0) return absl::ErrnoToStatus(errno, input->path());
  if (!S_ISREG(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is not a plain file; - reads standard input"));
  }
  input->bytes_ = static_cast<uint64_t>(found.st_size);
  return input;
}

absl::StatusOr<std::string> InputFile::Next() { return ReadChunk(path_, file_.get()); }

}  // namespace calib::cli
