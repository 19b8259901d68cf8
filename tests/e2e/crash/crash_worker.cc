// A worker of the crash tests, which is killed, stopped and cut off: takes its steps (workload.h) as fast as it can,
// writes down what it does (worker_log.h) and ends by itself. README.md says what follows from its log.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "client/cpp/client.h"
#include "client/cpp/worker.h"
#include "tests/e2e/crash/worker_log.h"
#include "tests/e2e/crash/workload.h"

namespace calib::test {
namespace {

struct CrashWorkerOptions {
  std::string server;
  std::string session;
  std::string log;
  int worker = 0;
  uint64_t seed = 0;
  uint64_t steps = 0;
  uint64_t flush_every = 1;
};

// Opens the worker where what the server has of it is durable: then it is known for good which steps are done.
absl::StatusOr<std::unique_ptr<client::Worker>> OpenSettled(const std::shared_ptr<client::Client>& client,
                                                            const CrashWorkerOptions& options) {
  client::WorkerOptions worker_options;
  worker_options.session = options.session;
  worker_options.worker_id = WorkerId(options.worker);
  worker_options.send_interval = absl::Milliseconds(1);
  worker_options.min_backoff = absl::Milliseconds(5);
  worker_options.max_backoff = absl::Milliseconds(100);
  while (true) {
    auto worker = client::Worker::Open(client, worker_options, absl::Minutes(5));
    if (!worker.ok()) return worker;
    const client::Worker::Stats stats = (*worker)->stats();
    if (stats.applied == stats.durable) return worker;
    v1::FlushRequest flush;
    flush.set_session(options.session);
    if (auto flushed = client->Flush(flush); !flushed.ok()) return flushed.status();
  }
}

absl::Status TakeSteps(const CrashWorkerOptions& options) {
  client::ClientOptions client_options;
  client_options.server = options.server;
  client_options.call_timeout = absl::Minutes(5);
  auto worker = OpenSettled(std::make_shared<client::Client>(client_options), options);
  if (!worker.ok()) return worker.status();
  const uint64_t done = (*worker)->stats().durable;  // units, which are steps when each is flushed
  if (done > 0 && options.flush_every != 1) {
    return absl::FailedPreconditionError("a worker that merges steps can't tell where an earlier process stopped");
  }
  WorkerLogWriter log(options.log);
  log.Durable(done);
  for (uint64_t number = done + 1; number <= options.steps; ++number) {
    const WorkStep step = StepOf(options.seed, options.worker, number);
    log.Begin(number);
    absl::Status status =
        step.raw ? (*worker)->SendRaw(step.layer, step.view()) : (*worker)->Observe(step.layer, step.view());
    if (!status.ok()) return status;
    if (number % options.flush_every != 0) continue;
    while (absl::IsDeadlineExceeded(status = (*worker)->Flush())) {
    }
    if (!status.ok()) return status;
    log.Durable(number);
  }
  if (auto status = (*worker)->Close(); !status.ok()) return status;
  log.Done();
  return absl::OkStatus();
}

}  // namespace
}  // namespace calib::test

int main(int argc, char** argv) {
  calib::test::CrashWorkerOptions options;
  CLI::App app("A worker of the crash tests", "crash_worker");
  app.add_option("--server", options.server)->required();
  app.add_option("--session", options.session)->required();
  app.add_option("--log", options.log)->required();
  app.add_option("--worker", options.worker)->required();
  app.add_option("--seed", options.seed)->required();
  app.add_option("--steps", options.steps)->required();
  app.add_option("--flush-every", options.flush_every, "Steps between two waits for durability")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = calib::test::TakeSteps(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "crash_worker: %s\n", std::string(status.message()).c_str());
  return 1;
}
