// What the server promises when it ends, stands still, or is started on a store that is not what it was.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "client/cpp/worker.h"
#include "tests/e2e/crash/crash_scene.h"

namespace calib::test {
namespace {

namespace fs = std::filesystem;
using testing::ContainsRegex;
using testing::HasSubstr;

// Nothing is committed unless it is asked for.
const std::vector<std::string>& OnRequestAlone() {
  static const auto* const options = new std::vector<std::string>{"--http", "", "--checkpoint-interval", "inf"};
  return *options;
}

void ExpectOneLine(const ProcessResult& result) {
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_THAT(result.err, testing::StartsWith("calibd: "));
}

// A worker of this process that never asks for durability.
class UnflushedTest : public testing::Test {
 protected:
  // All steps of the scene are applied, none is durable.
  void ApplyAll() {
    scene_.StartServer("", OnRequestAlone());
    scene_.CreateSession();
    client::ClientOptions client_options;
    client_options.server = scene_.proxy().address();
    auto client = std::make_shared<client::Client>(client_options);
    auto worker =
        client::Worker::Open(client, {.session = CrashScene::kSession, .worker_id = WorkerId(0)}, absl::Minutes(1));
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    for (uint64_t number = 1; number <= scene_.options().steps; ++number) {
      const WorkStep step = StepOf(scene_.options().seed, 0, number);
      ASSERT_TRUE(worker_->Observe(step.layer, step.view()).ok());
    }
    const SessionStatistics all = SumOfSteps(scene_.options().seed, {scene_.options().steps});
    const absl::Time deadline = absl::Now() + absl::Minutes(1);
    while (true) {
      const absl::StatusOr<ServerState> state = scene_.ReadServer();
      ASSERT_TRUE(state.ok()) << state.status();
      if (SameStatistics(all, state->layers)) {
        EXPECT_EQ(state->workers.at(WorkerId(0)).durable, 0);
        return;
      }
      ASSERT_LT(absl::Now(), deadline);
    }
  }
  // All of it is there without help of the worker, and once more with it.
  void ExpectAllAfterRestart() {
    scene_.proxy().SetAway(true);
    scene_.StartServer();
    scene_.CheckAll();
    scene_.proxy().SetAway(false);
    const absl::Status closed = worker_->Close(absl::Minutes(1));
    EXPECT_TRUE(closed.ok()) << closed;
    scene_.CheckAll();
  }

  CrashScene scene_{{.seed = 6, .workers = 1, .steps = 20}};
  std::unique_ptr<client::Worker> worker_;
};

TEST_F(UnflushedTest, ShutdownCommitsWhatIsApplied) {
  ApplyAll();
  scene_.server().Signal(SIGTERM);
  EXPECT_EQ(scene_.server().Wait().exit_code, 0);
  ExpectAllAfterRestart();
}

TEST_F(UnflushedTest, ASealedSessionIsDurable) {
  ApplyAll();
  v1::SealSessionRequest seal;
  seal.set_session(CrashScene::kSession);
  ASSERT_TRUE(scene_.client().SealSession(seal).ok());
  scene_.KillServer();
  ExpectAllAfterRestart();
  v1::GetSessionRequest get;
  get.set_session(CrashScene::kSession);
  const auto session = scene_.client().GetSession(get);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_TRUE(session->session().sealed());
}

TEST(CrashedServerTest, AServerThatStoodStillGoesOn) {
  CrashScene scene({.seed = 7});
  scene.StartServer();
  scene.CreateSession();
  scene.StartWorkers();
  for (const uint64_t step : {3, 10}) {
    ASSERT_TRUE(scene.AwaitDurable(0, step));
    scene.server().Signal(SIGSTOP);
    scene.server().AwaitStop();
    scene.proxy().CutAll();
    scene.server().Signal(SIGCONT);
  }
  scene.Finish();
}

TEST(CrashedServerTest, AWorkerSeesThatTheStoreWentBackInTime) {
  CrashScene scene({.seed = 8, .workers = 1, .steps = 100000});
  const std::string backup = scene.folder().path() + "/backup";
  scene.StartServer();
  scene.CreateSession();
  scene.StartWorkers();
  ASSERT_TRUE(scene.AwaitDurable(0, 5));
  scene.KillServer();
  fs::copy(scene.store(), backup, fs::copy_options::recursive);
  scene.RestartAndCheck();
  ASSERT_TRUE(scene.AwaitDurable(0, scene.Log(0).durable + 10));
  scene.KillServer();
  fs::remove_all(scene.store());
  fs::rename(backup, scene.store());
  scene.StartServer();
  const ProcessResult worker = scene.worker(0).Wait();
  EXPECT_EQ(worker.exit_code, 1);
  EXPECT_THAT(worker.err, ContainsRegex("the server lost units [0-9]+ to [0-9]+ of this worker"));
  const uint64_t last = std::stoull(worker.err.substr(worker.err.find(" to ") + 4));
  EXPECT_GE(last, scene.Log(0).durable);
}

TEST(CrashedServerTest, AStoreHasOneServer) {
  CrashScene scene;
  scene.StartServer();
  const ProcessResult second = RunProcess(scene.ServerCommand());
  ExpectOneLine(second);
  EXPECT_THAT(second.err, HasSubstr(scene.store()));
}

TEST(CrashedServerTest, ATruncatedLogIsNotServed) {
  CrashScene scene({.seed = 9, .workers = 2});
  scene.StartServer();
  scene.CreateSession();
  scene.StartWorkers();
  scene.AwaitWorkers();
  scene.KillServer();
  fs::path newest;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(scene.store())) {
    if (entry.path().extension() == ".log" && entry.path().filename() > newest.filename()) newest = entry.path();
  }
  ASSERT_FALSE(newest.empty());
  ASSERT_GT(fs::file_size(newest), 1);
  fs::resize_file(newest, fs::file_size(newest) / 2);
  const ProcessResult result = RunProcess(scene.ServerCommand());
  ExpectOneLine(result);
  EXPECT_THAT(result.err, HasSubstr(scene.store()));
}

}  // namespace
}  // namespace calib::test
