#include "server/app/options.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace calib::server {
namespace {

constexpr char kHelp[] =
    "calibd: collects quantization calibration statistics from a fleet of workers and computes scales and zero "
    "points.\n"
    "Each option --some-name can also be set by the environment variable CALIBD_SOME_NAME.";

std::string EnvironmentName(const std::string& option) {
  return absl::AsciiStrToUpper(absl::StrReplaceAll(option, {{"--", "CALIBD_"}, {"-", "_"}}));
}

// Adds options to an App, each with its environment variable.
class OptionAdder {
 public:
  explicit OptionAdder(CLI::App* app) : app_(app) {}

  CLI::Option* Text(const std::string& name, std::string* value, const std::string& help) {
    return app_->add_option(name, *value, help)->envname(EnvironmentName(name))->capture_default_str();
  }
  template <typename Number>
  CLI::Option* Count(const std::string& name, Number* value, const std::string& help) {
    return app_->add_option(name, *value, help)
        ->envname(EnvironmentName(name))
        ->capture_default_str()
        ->check(CLI::Range(uint64_t{1}, uint64_t{std::numeric_limits<Number>::max()}).description(""))
        ->type_name("N");
  }
  template <typename Number>
  CLI::Option* Bytes(const std::string& name, Number* value, uint64_t least, uint64_t most, const std::string& help) {
    return app_->add_option(name, *value, help + "; 64KiB, 4MiB, 1GiB are understood")
        ->envname(EnvironmentName(name))
        ->capture_default_str()
        ->check(CLI::Range(least, most).description(""))
        ->transform(CLI::AsSizeValue(false).description(""))
        ->type_name("BYTES");
  }
  CLI::Option* Duration(const std::string& name, absl::Duration* value, const std::string& help) {
    const auto parse = [value](const std::string& text) {
      if (absl::ParseDuration(text, value) && *value > absl::ZeroDuration()) return true;
      throw CLI::ValidationError(absl::StrCat("\"", text, "\" is not a duration above 0: write 500ms, 1s or 2m"));
    };
    return app_
        ->add_option_function<std::string>(
            name, [name, parse](const std::string& text) { parse(text); }, help)
        ->envname(EnvironmentName(name))
        ->default_str(absl::FormatDuration(*value))
        ->type_name("DURATION");
  }
  CLI::Option* Flag(const std::string& name, bool* value, const std::string& help) {
    return app_->add_flag(name, *value, help)->envname(EnvironmentName(name));
  }

 private:
  CLI::App* const app_;
};

ExitNow UsageError(absl::string_view message) {
  return {2, absl::StrCat("calibd: ", message, " (calibd --help lists the options)\n")};
}

bool ParseStore(const std::string& text, const std::string& data_dir, StoreOptions* store) {
  constexpr absl::string_view kRocksDb = "rocksdb:";
  if (text == "memory") return true;
  if (text == "rocksdb") {
    store->rocksdb_path = absl::StrCat(data_dir.empty() ? "." : data_dir, "/store");
  } else if (absl::StartsWith(text, kRocksDb)) {
    store->rocksdb_path = text.substr(kRocksDb.size());
  }
  return !store->rocksdb_path.empty();
}

}  // namespace

std::variant<AppOptions, ExitNow> ParseOptions(int argc, const char* const* argv) {
  AppOptions options;
  std::string listen = options.grpc.listen.ToString();
  std::string http = "127.0.0.1:9464";
  std::string data_dir = "calibd-data";
  std::string store = "rocksdb";
  bool insecure = false;

  CLI::App app(kHelp, "calibd");
  app.set_version_flag("--version", std::string("calibd ") + CALIB_VERSION);
  app.allow_extras(false);
  OptionAdder add(&app);
  add.Text("--listen", &listen, "Where to serve gRPC, HOST:PORT; port 0 is any free one");
  add.Text("--http", &http, "Where to serve /metrics, /healthz and /readyz; port 0 is any free one, \"\" serves none");
  add.Flag("--insecure", &insecure,
           "Allow --listen beyond this machine although nothing is encrypted or authenticated");
  add.Text("--data-dir", &data_dir, "Folder for what has to outlive the process; made if it is not there");
  add.Text("--store", &store,
           "Where sessions are kept. rocksdb: in the folder store of --data-dir; rocksdb:PATH: in that folder; memory: "
           "nowhere, they end with the process");
  add.Duration("--session-expiry", &options.engine.session_expiry,
               "Delete sessions without an open stream that did not change for so long; inf: never");
  add.Duration("--checkpoint-interval", &options.engine.checkpoint_interval,
               "Longest time until what was taken in is committed and acknowledged as durable");
  add.Duration("--drain-timeout", &options.drain_timeout,
               "Longest time that calls get to end after SIGTERM, before they are cancelled");
  add.Flag("--reflection", &options.grpc.reflection, "Serve gRPC reflection, for grpcurl and the like");

  Limits& limits = options.engine.limits;
  add.Count("--max-sessions", &limits.max_sessions, "Sessions");
  add.Count("--max-layers", &limits.max_layers, "Layers of one session");
  add.Count("--max-channels", &limits.max_channels, "Channels of one layer");
  add.Count("--max-layer-name-bytes", &limits.max_layer_name_bytes, "Bytes of a layer's name, at most 4096")
      ->check(CLI::Range(1, 4096).description(""));
  add.Count("--max-workers", &limits.max_workers, "Workers of one session");
  add.Count("--max-toggles", &limits.max_toggles, "Patterns of one session that observers were switched on or off by");
  add.Count("--max-lineage", &limits.max_lineage, "Sessions whose values state files may bring into one session");
  add.Count("--max-streams", &limits.max_streams, "Streams of workers, state files and exports open at once");
  add.Count("--max-calls", &options.grpc.max_calls, "Unary calls open at once");
  add.Count("--max-streams-per-connection", &options.grpc.max_streams_per_connection, "Calls open on one connection");
  constexpr uint64_t kAny = std::numeric_limits<int64_t>::max();
  add.Bytes("--max-step-bytes", &limits.max_step_bytes, 1 << 20, kAny,
            "Memory for the open synchronous steps of one session");
  add.Bytes("--max-state-bytes", &limits.max_state_bytes, 1 << 20, kAny, "Memory for the statistics of all sessions");
  add.Bytes("--max-message-bytes", &options.grpc.max_message_bytes, 4 << 20, 1 << 30, "Largest message and answer");
  add.Bytes("--max-read-bytes", &options.grpc.max_read_bytes, 1 << 20, kAny, "Messages that wait to be processed");
  add.Bytes("--max-export-input-bytes", &options.grpc.export_limits.max_input_bytes, 1 << 10, kAny,
            "Largest model or table that an export is made of");
  add.Bytes("--max-export-bytes", &options.grpc.export_limits.max_bytes, 1 << 20, kAny,
            "Memory for the inputs and files of all exports under way, and for making them");
  add.Bytes("--transport-memory-bytes", &options.grpc.transport_memory_bytes, 16 << 20, kAny,
            "Memory of gRPC's buffers");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return ExitNow{0, app.help()};
  } catch (const CLI::CallForVersion&) {
    return ExitNow{0, absl::StrCat(app.version(), "\n")};
  } catch (const CLI::ParseError& error) {
    return UsageError(error.what());
  }

  const absl::StatusOr<ListenAddress> grpc_address = ParseListenAddress(listen);
  if (!grpc_address.ok()) return UsageError(absl::StrCat("--listen: ", grpc_address.status().message()));
  options.grpc.listen = *grpc_address;
  if (!http.empty()) {
    const absl::StatusOr<ListenAddress> http_address = ParseListenAddress(http);
    if (!http_address.ok()) return UsageError(absl::StrCat("--http: ", http_address.status().message()));
    options.http = *http_address;
  }
  if (!ParseStore(store, data_dir, &options.store)) {
    return UsageError(
        absl::StrCat("--store ", store, ": there is no such store; write rocksdb, rocksdb:PATH or memory"));
  }
  if (!insecure && !IsLoopback(options.grpc.listen)) {
    return UsageError(absl::StrCat("--listen ", listen,
                                   " is reachable from other machines, and this version neither encrypts nor "
                                   "authenticates: listen on 127.0.0.1, or add --insecure if the network is trusted"));
  }
  return options;
}

}  // namespace calib::server
