#ifndef CALIB_CLIENT_CLI_OUTPUT_FILE_H_
#define CALIB_CLIENT_CLI_OUTPUT_FILE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace calib::cli {

// A file that is there whole, or not at all: written beside its place and put there at the end. "-" is standard output.
// Errors begin with the path. Not thread-safe.
class OutputFile {
 public:
  // Of a file that is replaced, the permissions stay, and links that lead to it. ALREADY_EXISTS: there is a file, and
  // `overwrite` is false. FAILED_PRECONDITION: what is there is no plain file.
  static absl::StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path, bool overwrite);
  // Removes what was written, unless it was committed.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Write(absl::string_view bytes);
  // Puts the file in its place, durably. Once, after all is written.
  absl::Status Commit();

  // Where it is written until then; empty for standard output.
  const std::string& temporary_path() const { return temporary_path_; }

 private:
  OutputFile(std::string path, std::string temporary_path, int file, bool overwrite)
      : path_(std::move(path)), temporary_path_(std::move(temporary_path)), overwrite_(overwrite), file_(file) {}
  absl::Status Error() const;

  const std::string path_;
  const std::string temporary_path_;
  const bool overwrite_;
  int file_;
  bool committed_ = false;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_OUTPUT_FILE_H_
