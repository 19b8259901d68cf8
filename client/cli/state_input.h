#ifndef CALIB_CLIENT_CLI_STATE_INPUT_H_
#define CALIB_CLIENT_CLI_STATE_INPUT_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/codec/state_file.h"

namespace calib::cli {

// A state file to be read, more than once if need be. "-" is standard input, which is kept in a temporary file without
// a name. Errors begin with the path. Not thread-safe.
class StateInput {
 public:
  static absl::StatusOr<std::unique_ptr<StateInput>> Open(const std::string& path);

  // The next bytes, at most kMaxStateChunkBytes; none at the end.
  absl::StatusOr<std::string> Next();
  // Reads the whole file from its first byte through `reader`, and goes back to its first byte.
  absl::Status Check(StateFileReader* reader);

 private:
  StateInput(std::string path, FILE* file) : path_(std::move(path)), file_(file, &fclose) {}

  const std::string path_;
  const std::unique_ptr<FILE, int (*)(FILE*)> file_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_STATE_INPUT_H_
