// Runs in which a seed decides when the server and the workers are killed. The environment variable CALIB_CRASH_RUNS
// says how many, CALIB_CRASH_SEED where to begin: a run that failed is repeated with its own seed.

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <random>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/base/kill_point.h"
#include "tests/e2e/crash/crash_scene.h"
#include "tests/support/random_tensors.h"

namespace calib::test {
namespace {

constexpr uint64_t kMergedSteps = 5;  // between two flushes of a worker that merges

uint64_t Number(const char* variable, uint64_t otherwise) {
  const char* const value = std::getenv(variable);
  uint64_t number = 0;
  return value != nullptr && absl::SimpleAtoi(value, &number) ? number : otherwise;
}

class CrashRun {
 public:
  explicit CrashRun(uint64_t seed)
      : rng_(seed),
        merges_(rng_() % 2 == 0),
        scene_({.seed = seed, .steps = merges_ ? 300u : 80u, .flush_every = merges_ ? kMergedSteps : 1}) {}

  void Run() {
    scene_.StartServer();
    scene_.CreateSession();
    scene_.StartWorkers();
    const uint64_t crashes = 1 + rng_() % 3;
    std::string kill_point;
    for (uint64_t crash = 0; crash <= crashes && !testing::Test::HasFatalFailure(); ++crash) {
      if (kill_point.empty()) {
        AwaitSomething();
        if (!merges_ && rng_() % 2 == 0) RestartWorker();
        scene_.server().Signal(SIGKILL);
      }
      scene_.AwaitServerKill();
      kill_point = crash < crashes && rng_() % 2 == 0 ? KillPoint() : "";
      if (rng_() % 4 == 0) CrashAtOpen();
      scene_.RestartAndCheck(kill_point);
    }
    if (!merges_ && rng_() % 2 == 0) RestartWorker();
    scene_.Finish();
  }

 private:
  void CrashAtOpen() {
    const char* const name = rng_() % 2 == 0 ? server::kill_points::kOpenBegin : server::kill_points::kOpenEnd;
    const std::string entry = absl::StrCat("CALIBD_KILL_POINT=", name, ":1:kill");
    EXPECT_EQ(RunProcess(scene_.ServerCommand(), {entry}).exit_code, 128 + SIGKILL);
  }

  // A place that the server comes to with what is left to do.
  std::string KillPoint() {
    const bool apply = rng_() % 3 == 0;
    const char* const points[] = {server::kill_points::kApplyBegin,          server::kill_points::kApplyEnd,
                                  server::kill_points::kCheckpointBegin,     server::kill_points::kCheckpointCut,
                                  server::kill_points::kCheckpointCommitted, server::kill_points::kCheckpointEnd,
                                  server::kill_points::kCommitBegin,         server::kill_points::kCommitWritten,
                                  server::kill_points::kCommitMarked};
    const char* const name = apply ? points[rng_() % 2] : points[2 + rng_() % 7];
    return absl::StrCat(name, ":", 1 + rng_() % (apply ? 30 : 4), ":kill");
  }

  // The n-th acknowledgement from now on of some worker, or the n-th byte to the server.
  void AwaitSomething() {
    if (rng_() % 2 == 0) {
      EXPECT_TRUE(
          scene_.proxy().AwaitBytes(scene_.proxy().bytes_to_server() + rng_() % 20000, std::chrono::minutes(2)));
      return;
    }
    const int worker = RandomWorker();
    const uint64_t flushes = scene_.Log(worker).durable / scene_.options().flush_every + 1 + rng_() % 5;
    scene_.AwaitDurable(worker, flushes * scene_.options().flush_every);  // or it has ended, which is as good
  }

  void RestartWorker() {
    const int worker = RandomWorker();
    scene_.worker(worker).Signal(SIGKILL);
    scene_.worker(worker).Wait();
    scene_.StartWorker(worker);
  }

  int RandomWorker() { return static_cast<int>(rng_() % static_cast<uint64_t>(scene_.options().workers)); }

  Rng rng_;
  const bool merges_;
  CrashScene scene_;
};

TEST(RandomCrashesTest, NothingIsLostOrCountedTwice) {
  const uint64_t first = Number("CALIB_CRASH_SEED", 1), runs = Number("CALIB_CRASH_RUNS", 4);
  for (uint64_t seed = first; seed < first + runs; ++seed) {
    SCOPED_TRACE(absl::StrCat("again: CALIB_CRASH_RUNS=1 CALIB_CRASH_SEED=", seed));
    CrashRun(seed).Run();
    ASSERT_FALSE(testing::Test::HasFailure());
  }
}

}  // namespace
}  // namespace calib::test
