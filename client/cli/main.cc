#include <cstdio>
#include <exception>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/format.h"

namespace calib::cli {
namespace {

enum ExitCode { kOk = 0, kRefused = 1, kUsage = 2 };

constexpr Command kCommands[] = {
    {"session", "Make, list, show, seal and delete sessions", "calibctl session create resnet50", &ConfigureSession},
    {"push", "Push arrays of .npy files into a session, as a fleet of workers would",
     "calibctl push resnet50 conv1=conv1.npy fc=fc.npy --ranks 4", &ConfigurePush},
    {"qparams", "Compute scale and zero point of a session's layers",
     "calibctl qparams resnet50 'layer1.*' --method mse --dtype int8 --json", &ConfigureQParams},
    {"compare", "Compare methods and types by their expected error",
     "calibctl compare resnet50 --dtype int8,int4 --methods minmax,percentile,mse", &ConfigureCompare},
    {"export", "Make the file that a deployment toolchain loads",
     "calibctl export resnet50 --format tensorrt-cache -o calib.cache --method entropy", &ConfigureExport},
    {"watch", "Show a session's progress until it is sealed", "calibctl watch resnet50 --interval 0.5",
     &ConfigureWatch},
    {"health", "Ask whether the server is serving", "calibctl health --server calibd.example.com:7070",
     &ConfigureHealth},
};

constexpr char kFooter[] =
    "Exit codes:\n"
    "  0    done; of several layers at least one has an answer\n"
    "  1    the server or the data said no; one line on stderr says why\n"
    "  2    the command line is wrong\n"
    "  130  interrupted by Ctrl-C or SIGTERM; watch, which ends so, gives 0\n"
    "Example:\n"
    "  calibctl session create demo && calibctl push demo conv1=conv1.npy && calibctl qparams demo --method mse";

int PrintError(absl::string_view line, int exit_code) {
  std::cout << std::flush;
  std::cerr << "calibctl: " << line << '\n';
  return exit_code;
}

int Main(int argc, char** argv) {
  Interrupts interrupts;
  GlobalOptions options;
  CLI::App app("calibctl talks to a calibd server: quantization calibration for a fleet.", "calibctl");
  app.set_version_flag("--version", std::string("calibctl ") + CALIB_VERSION);
  app.add_option("--server", options.server, "The server")
      ->envname("CALIBD_SERVER")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  app.add_flag("--json", options.json, "Print one line of JSON, for machines; watch prints one a state");
  app.add_option("--timeout", options.timeout_seconds,
                 "Seconds that a call may take, and that a push waits for a server without any progress")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str()
      ->type_name("SECONDS");
  app.footer(kFooter);
  const Run run = AddCommands(kCommands, &app);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return PrintError(absl::StrCat(Printable(error.what()), "; see calibctl --help"), kUsage);
  }

  client::ClientOptions client_options;
  client_options.server = options.server;
  client_options.call_timeout = options.timeout();
  // A person waits: an absent server is worth saying at once.
  client_options.retry_unavailable = false;
  client::Client client(client_options);
  const absl::Status status = run({options, client, interrupts});
  if (!std::cout.flush()) return PrintError("standard output cannot be written", kRefused);
  if (status.ok()) return kOk;
  return PrintError(ErrorLine(status), interrupts.interrupted() ? Interrupts::kExitCode : kRefused);
}

}  // namespace
}  // namespace calib::cli

int main(int argc, char** argv) { return calib::cli::Main(argc, argv); }
