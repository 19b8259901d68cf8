#ifndef CALIB_SERVER_APP_OPTIONS_H_
#define CALIB_SERVER_APP_OPTIONS_H_

#include <optional>
#include <string>
#include <variant>

#include "absl/time/time.h"
#include "server/base/listen_address.h"
#include "server/engine/engine.h"
#include "server/rpc/grpc_server.h"

namespace calib::server {

// Where sessions are kept.
struct StoreOptions {
  std::string rocksdb_path;  // empty: in memory alone
};

// What calibd was asked to do. --help has each option's meaning and default.
struct AppOptions {
  GrpcServerOptions grpc;
  std::optional<ListenAddress> http;  // unset: no HTTP port
  StoreOptions store;
  EngineOptions engine;
  absl::Duration drain_timeout = absl::Seconds(30);
};

// What to do instead of serving: print the text (to stdout when the exit code is 0, else to stderr) and exit.
struct ExitNow {
  int exit_code = 0;  // 0: --help, --version; 2: wrong usage
  std::string text;
};

// Reads the command line; each option can also be set by the environment variable CALIBD_<NAME>, as
// CALIBD_MAX_SESSIONS, which the command line overrides.
std::variant<AppOptions, ExitNow> ParseOptions(int argc, const char* const* argv);

}  // namespace calib::server

#endif  // CALIB_SERVER_APP_OPTIONS_H_
