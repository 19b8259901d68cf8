#ifndef CALIB_CLIENT_CLI_SESSION_WORLD_H_
#define CALIB_CLIENT_CLI_SESSION_WORLD_H_

#include "client/cli/command.h"

namespace calib::cli {

// session set-world.
Run ConfigureSetWorld(CLI::App* command);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SESSION_WORLD_H_
