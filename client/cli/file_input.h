#ifndef CALIB_CLIENT_CLI_FILE_INPUT_H_
#define CALIB_CLIENT_CLI_FILE_INPUT_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace calib::cli {

// A file that is sent to the server as it is. Errors begin with the path. Not thread-safe.
class FileInput {
 public:
  // FAILED_PRECONDITION: it is no plain file, or empty.
  static absl::StatusOr<std::unique_ptr<FileInput>> Open(const std::string& path);

  // The next bytes, at most 1 MiB; none at the end.
  absl::StatusOr<std::string> Next();
  // Its size when it was opened.
  uint64_t bytes() const { return bytes_; }

 private:
  FileInput(std::string path, FILE* file) : path_(std::move(path)), file_(file, &fclose) {}

  const std::string path_;
  const std::unique_ptr<FILE, int (*)(FILE*)> file_;
  uint64_t bytes_ = 0;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_FILE_INPUT_H_
