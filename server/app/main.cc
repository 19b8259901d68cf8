// calibd, the calibration server. Exit codes: 0 after a clean shutdown, 1 when it can't start or can't store what it
// has at the end, 2 for wrong usage.

#include <signal.h>

#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/app/log.h"
#include "server/app/options.h"
#include "server/base/allocator.h"
#include "server/engine/engine.h"
#include "server/rpc/grpc_server.h"
#include "server/store/memory_store.h"
#include "server/store/rocksdb_store.h"
#include "server/web/http_server.h"
#include "server/web/metrics.h"

namespace calib::server {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits for SIGTERM or SIGINT, and watches the store meanwhile.
void WaitForStop(GrpcServer* server) {
  const sigset_t signals = StopSignals();
  const timespec second = {1, 0};
  bool was_ready = true;
  while (sigtimedwait(&signals, nullptr, &second) < 0) {
    server->UpdateHealth();
    const absl::Status ready = server->ready();
    if (ready.ok() == was_ready) continue;
    was_ready = ready.ok();
    if (was_ready) {
      Log(LogLevel::kInfo, "the store takes commits again");
    } else {
      Log(LogLevel::kError, "not ready: nothing more is acknowledged", {{"reason", std::string(ready.message())}});
    }
  }
  // From now on they have their default effect: a second one ends the process at once.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

int StartError(const absl::Status& status) {
  std::fprintf(stderr, "calibd: %s\n", std::string(status.message()).c_str());
  return 1;
}

std::unique_ptr<Store> NewStore(const StoreOptions& options) {
  if (!options.rocksdb_path.empty()) return NewRocksDbStore({.path = options.rocksdb_path});
  MemoryStore::Options memory;
  memory.first_epoch = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  return std::make_unique<MemoryStore>(memory);
}

int Serve(const AppOptions& options) {
  const absl::Time begin = absl::Now();
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(options.engine, NewStore(options.store));
  if (!engine.ok()) return StartError(engine.status());
  const absl::Duration load_time = absl::Now() - begin;
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc = GrpcServer::Start(options.grpc, engine->get());
  if (!grpc.ok()) return StartError(grpc.status());
  std::unique_ptr<HttpServer> http;
  const MetricsCollector metrics(&(*engine)->counters());
  if (options.http.has_value()) {
    HttpServer::Handlers handlers;
    handlers.metrics = [&metrics] { return MetricsText(metrics); };
    handlers.ready = [server = grpc->get()] { return server->ready(); };
    absl::StatusOr<std::unique_ptr<HttpServer>> started = HttpServer::Start(*options.http, std::move(handlers));
    if (!started.ok()) return StartError(started.status());
    http = *std::move(started);
  }

  const std::string http_address = http == nullptr ? "none" : http->address().ToString();
  std::printf("calibd ready grpc=%s http=%s epoch=%llu\n", (*grpc)->address().ToString().c_str(), http_address.c_str(),
              static_cast<unsigned long long>((*engine)->server_epoch()));
  std::fflush(stdout);
  Log(LogLevel::kInfo, "ready",
      {{"version", CALIB_VERSION},
       {"grpc", (*grpc)->address().ToString()},
       {"http", http_address},
       {"store", options.store.rocksdb_path.empty() ? "memory" : "rocksdb:" + options.store.rocksdb_path},
       {"sessions", absl::StrCat((*engine)->counters().sessions.load())},
       {"layers", absl::StrCat((*engine)->counters().layers.load())},
       {"load_seconds", absl::StrFormat("%.3f", absl::ToDoubleSeconds(load_time))}});

  WaitForStop(grpc->get());
  Log(LogLevel::kInfo, "draining", {{"timeout", absl::FormatDuration(options.drain_timeout)}});
  const absl::Status stopped = (*grpc)->Stop(absl::Now() + options.drain_timeout);
  http.reset();
  if (!stopped.ok()) {
    Log(LogLevel::kError, "stopped, but the last changes are not durable",
        {{"reason", std::string(stopped.message())}});
    return 1;
  }
  Log(LogLevel::kInfo, "stopped");
  return 0;
}

}  // namespace
}  // namespace calib::server

int main(int argc, char** argv) {
  const std::variant<calib::server::AppOptions, calib::server::ExitNow> parsed =
      calib::server::ParseOptions(argc, argv);
  if (const auto* exit_now = std::get_if<calib::server::ExitNow>(&parsed)) {
    std::fputs(exit_now->text.c_str(), exit_now->exit_code == 0 ? stdout : stderr);
    return exit_now->exit_code;
  }
  // Before any thread starts, so that all inherit it and signals wait for WaitForStop.
  const sigset_t signals = calib::server::StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  calib::server::KeepFreedMemory();
  calib::server::RedirectLibraryLogs();
  return calib::server::Serve(std::get<calib::server::AppOptions>(parsed));
}
