#ifndef CALIB_CLIENT_CLI_INPUT_FILE_H_
#define CALIB_CLIENT_CLI_INPUT_FILE_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace calib::cli {

// A file to be read, more than once if need be. "-" is standard input, which is kept in a temporary file without a
// name. Errors begin with the path. Not thread-safe.
class InputFile {
 public:
  // FAILED_PRECONDITION: it is no plain file.
  static absl::StatusOr<std::unique_ptr<InputFile>> Open(const std::string& path);

  // The next bytes, at most kMaxStateChunkBytes; none at the end.
  absl::StatusOr<std::string> Next();
  // Back to the first byte.
  void Rewind() { rewind(file_.get()); }

  const std::string& path() const { return path_; }
  // Its size when it was opened.
  uint64_t bytes() const { return bytes_; }

 private:
  InputFile(std::string path, FILE* file) : path_(std::move(path)), file_(file, &fclose) {}

  const std::string path_;
  const std::unique_ptr<FILE, int (*)(FILE*)> file_;
  uint64_t bytes_ = 0;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_INPUT_FILE_H_
