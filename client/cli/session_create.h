#ifndef CALIB_CLIENT_CLI_SESSION_CREATE_H_
#define CALIB_CLIENT_CLI_SESSION_CREATE_H_

#include <string>

#include "absl/status/statusor.h"
#include "calib/v1/session.pb.h"
#include "client/cli/command.h"

namespace calib::cli {

// `calibctl session create`.
Run ConfigureSessionCreate(CLI::App* command);

// Reads a SessionConfig from a file in protobuf's JSON form, as `session show --json` prints it under "config". Errors
// begin with the path and name the field.
absl::StatusOr<v1::SessionConfig> ReadSessionConfig(const std::string& path);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SESSION_CREATE_H_
