#ifndef CALIB_CLIENT_CLI_COMMAND_H_
#define CALIB_CLIENT_CLI_COMMAND_H_

#include <functional>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/cli/interrupts.h"
#include "client/cpp/client.h"

namespace calib::cli {

// The options that every command takes.
struct GlobalOptions {
  std::string server = "127.0.0.1:7070";
  bool json = false;
  double timeout_seconds = 30;

  absl::Duration timeout() const { return absl::Seconds(timeout_seconds); }
};

// What a command runs with.
struct Context {
  const GlobalOptions& options;
  client::Client& client;
  Interrupts& interrupts;
};

// Runs a parsed command. Results go to stdout; an error is printed by the caller and makes the exit code 1.
using Run = std::function<absl::Status(const Context& context)>;

// One command of calibctl.
struct Command {
  const char* name;
  const char* summary;
  const char* example;
  // Adds the command's arguments and options; what it returns runs once they are parsed. Values that need more than one
  // option to judge are checked in a parse_complete_callback, which throws CLI::ValidationError.
  Run (*configure)(CLI::App* command);
};

// Adds `commands` below `parent`, exactly one of which must be given, and returns what runs that one.
Run AddCommands(absl::Span<const Command> commands, CLI::App* parent);

// Each in its own file.
Run ConfigureSession(CLI::App* command);
Run ConfigurePush(CLI::App* command);
Run ConfigureQParams(CLI::App* command);
Run ConfigureCompare(CLI::App* command);
Run ConfigureExport(CLI::App* command);
Run ConfigureWatch(CLI::App* command);
Run ConfigureHealth(CLI::App* command);

// Adds the argument NAME, a session's name.
void AddSessionArgument(std::string* session, CLI::App* command);

// One line that says what failed: the message and, when the server gave one, the reason in brackets.
std::string ErrorLine(const absl::Status& status);
// `status` with `prefix` and ": " before its message; its code and details stay.
absl::Status Annotate(const absl::Status& status, absl::string_view prefix);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_COMMAND_H_
