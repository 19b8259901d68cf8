#ifndef CALIB_CLIENT_CLI_STATE_INPUT_H_
#define CALIB_CLIENT_CLI_STATE_INPUT_H_

#include "absl/status/status.h"
#include "client/cli/input_file.h"
#include "proto/codec/state_file.h"

namespace calib::cli {

// Reads a state file through `reader`, from where it stands to its end, and goes back to its first byte. Errors begin
// with the path.
absl::Status CheckState(InputFile* file, StateFileReader* reader);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_STATE_INPUT_H_
