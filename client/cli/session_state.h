#ifndef CALIB_CLIENT_CLI_SESSION_STATE_H_
#define CALIB_CLIENT_CLI_SESSION_STATE_H_

#include "client/cli/command.h"

namespace calib::cli {

// `calibctl session export-state`, `import-state` and `inspect-state`: sessions' statistics as files.
Run ConfigureExportState(CLI::App* command);
Run ConfigureImportState(CLI::App* command);
Run ConfigureInspectState(CLI::App* command);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SESSION_STATE_H_
