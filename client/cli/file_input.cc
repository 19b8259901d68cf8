#include "client/cli/file_input.h"

#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace calib::cli {

absl::StatusOr<std::unique_ptr<FileInput>> FileInput::Open(const std::string& path) {
  FILE* const file = fopen(path.c_str(), "rbe");
  if (file == nullptr) return absl::ErrnoToStatus(errno, path);
  std::unique_ptr<FileInput> input(new FileInput(path, file));
  struct stat found;
  if (fstat(fileno(file), &found) != 0) return absl::ErrnoToStatus(errno, path);
  if (!S_ISREG(found.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, ": is not a plain file"));
  if (found.st_size == 0) return absl::FailedPreconditionError(absl::StrCat(path, ": is empty"));
  input->bytes_ = static_cast<uint64_t>(found.st_size);
  return input;
}

absl::StatusOr<std::string> FileInput::Next() {
  constexpr size_t kChunkBytes = 1 << 20;
  std::string bytes(kChunkBytes, '\0');
  bytes.resize(fread(bytes.data(), 1, bytes.size(), file_.get()));
  if (ferror(file_.get()) != 0) return absl::ErrnoToStatus(errno, path_);
  return bytes;
}

}  // namespace calib::cli
