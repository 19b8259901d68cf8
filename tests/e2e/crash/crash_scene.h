#ifndef CALIB_TESTS_E2E_CRASH_CRASH_SCENE_H_
#define CALIB_TESTS_E2E_CRASH_CRASH_SCENE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "tests/e2e/crash/oracle.h"
#include "tests/e2e/crash/worker_log.h"
#include "tests/support/process.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/temporary_folder.h"

namespace calib::test {

// The environment variable CALIB_CRASH_WORKER is the command of another worker than crash_worker, of words without
// spaces, that takes its options; CALIB_CRASH_WORKERS the most workers of a scene, at least 4.
struct CrashSceneOptions {
  uint64_t seed = 1;
  int workers = 8;
  uint64_t steps = 30;       // of each worker
  uint64_t flush_every = 1;  // 1: each step is one unit. More: steps merge, and a worker can't be started again
  std::string store;         // folder of the store; empty: one of its own
};

// One server program over one store folder, started again and again; workers that reach it through one proxy, and so
// need not know where it is. What is expected of the server is checked by gtest's EXPECT.
class CrashScene {
 public:
  static constexpr char kSession[] = "crash";

  explicit CrashScene(const CrashSceneOptions& options = {});

  // --- The server: calibd_kill_points.

  // `kill_point` as CALIBD_KILL_POINT. From now on the proxy leads to it.
  void StartServer(const std::string& kill_point = "", const std::vector<std::string>& options = {});
  // The command line on this store.
  std::vector<std::string> ServerCommand(const std::vector<std::string>& options = {}) const;
  Process& server() { return *server_; }
  const std::string& server_address() const { return server_address_; }
  // Waits for the server's end by SIGKILL, of its own or sent now.
  void AwaitServerKill();
  void KillServer();
  // Starts the server on what the last one left, and before workers reach it compares what it has with their logs.
  void RestartAndCheck(const std::string& kill_point = "", const std::vector<std::string>& options = {});

  // Calls that outlive restarts, through the proxy.
  client::Client& client() { return *client_; }
  void CreateSession();
  absl::StatusOr<ServerState> ReadServer();

  // --- Workers.

  void StartWorker(int worker);
  void StartWorkers();
  Process& worker(int worker) { return *workers_[static_cast<size_t>(worker)]; }
  WorkerLog Log(int worker) const { return ReadWorkerLog(LogPath(worker)); }
  std::string LogPath(int worker) const;
  std::vector<std::string> WorkerCommand(int worker, const std::string& log) const;
  // Waits until the worker was told that `step`, one after which it flushes, is durable. False when it ended before, or
  // took too long.
  bool AwaitDurable(int worker, uint64_t step);
  // Steps of each worker that it began; that it was told are durable.
  std::vector<uint64_t> Begun() const;
  std::vector<uint64_t> Durable() const;
  // Expects all workers to end by themselves with everything durable.
  void AwaitWorkers();
  // Expects the server's statistics to be those of all steps of all workers.
  void CheckAll();
  // Both, and that it is so after another crash.
  void Finish();

  TcpProxy& proxy() { return proxy_; }
  const TemporaryFolder& folder() const { return folder_; }
  const std::string& store() const { return store_; }
  const CrashSceneOptions& options() const { return options_; }

 private:
  const CrashSceneOptions options_;
  const TemporaryFolder folder_;
  const std::string store_;
  TcpProxy proxy_;
  const std::unique_ptr<client::Client> client_;
  std::atomic<bool> created_ = false;  // the session was acknowledged
  std::unique_ptr<Process> server_;
  std::string server_address_;
  std::vector<std::unique_ptr<Process>> workers_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_CRASH_SCENE_H_
