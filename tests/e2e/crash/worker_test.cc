// Workers are killed and started again, stand still, and are started twice.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/e2e/crash/crash_scene.h"

namespace calib::test {
namespace {

using testing::HasSubstr;

class CrashedWorkerTest : public testing::Test {
 protected:
  void Start() {
    scene_.StartServer();
    scene_.CreateSession();
    scene_.StartWorkers();
  }
  void Kill(int worker) {
    scene_.worker(worker).Signal(SIGKILL);
    const int exit_code = scene_.worker(worker).Wait().exit_code;
    // Other workers may be so slow to start that this one was done before.
    EXPECT_TRUE(exit_code == 128 + SIGKILL || scene_.Log(worker).done) << exit_code;
  }

  CrashScene scene_{{.seed = 3, .steps = 60}};
};

TEST_F(CrashedWorkerTest, KilledWorkersGoOnWhereTheyWere) {
  Start();
  for (const uint64_t step : {3, 9, 20}) {
    for (const int worker : {0, 1, 2, 3}) {
      ASSERT_TRUE(scene_.AwaitDurable(worker, step));
      Kill(worker);
      scene_.StartWorker(worker);
    }
  }
  scene_.Finish();
}

// What the server had applied of the killed worker and not stored is gone; nobody but the next process can say so.
TEST_F(CrashedWorkerTest, WorkerAndServerAreKilledTogether) {
  Start();
  for (const uint64_t step : {2, 7, 13}) {
    for (const int worker : {0, 1, 2, 3}) {
      ASSERT_TRUE(scene_.AwaitDurable(worker, step));
      Kill(worker);
    }
    scene_.KillServer();
    for (const int worker : {0, 1}) scene_.StartWorker(worker);
    scene_.RestartAndCheck();
    for (const int worker : {2, 3}) scene_.StartWorker(worker);
  }
  scene_.Finish();
}

// All timeouts, of connection, stream and server, have passed for a worker whose stream was cut and whose server is
// another one.
TEST_F(CrashedWorkerTest, AWorkerThatStoodStillGoesOnWithAnotherServer) {
  Start();
  ASSERT_TRUE(scene_.AwaitDurable(0, 5));
  scene_.worker(0).Signal(SIGSTOP);
  scene_.worker(0).AwaitStop();
  scene_.KillServer();
  scene_.RestartAndCheck();
  for (int worker = 1; worker < scene_.options().workers; ++worker) {
    EXPECT_EQ(scene_.worker(worker).Wait().exit_code, 0) << worker;
  }
  scene_.worker(0).Signal(SIGCONT);
  scene_.Finish();
}

TEST_F(CrashedWorkerTest, AWorkerThatStoodStillWhileItsStreamWasCutGoesOn) {
  Start();
  ASSERT_TRUE(scene_.AwaitDurable(0, 5));
  scene_.worker(0).Signal(SIGSTOP);
  scene_.worker(0).AwaitStop();
  scene_.proxy().CutAll();
  for (int worker = 1; worker < scene_.options().workers; ++worker) {
    EXPECT_EQ(scene_.worker(worker).Wait().exit_code, 0) << worker;
  }
  scene_.worker(0).Signal(SIGCONT);
  scene_.Finish();
}

TEST_F(CrashedWorkerTest, OfTwoProcessesWithOneIdTheOlderIsFenced) {
  Start();
  ASSERT_TRUE(scene_.AwaitDurable(0, 5));
  Process newer(scene_.WorkerCommand(0, scene_.folder().path() + "/newer"));
  const ProcessResult older = scene_.worker(0).Wait();
  EXPECT_EQ(older.exit_code, 1);
  EXPECT_THAT(older.err, HasSubstr("a newer stream of worker \"worker-0\""));
  const ProcessResult result = newer.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (int worker = 1; worker < scene_.options().workers; ++worker) {
    EXPECT_EQ(scene_.worker(worker).Wait().exit_code, 0) << worker;
  }
  scene_.CheckAll();
}

// The older one stands still, cut off, until the newer one is done, and finds a server that knows of the newer one
// alone.
TEST_F(CrashedWorkerTest, AFencedWorkerIsFencedAlsoAfterARestart) {
  Start();
  ASSERT_TRUE(scene_.AwaitDurable(0, 5));
  scene_.worker(0).Signal(SIGSTOP);
  scene_.worker(0).AwaitStop();
  scene_.proxy().CutAll();
  Process newer(scene_.WorkerCommand(0, scene_.folder().path() + "/newer"));
  EXPECT_EQ(newer.Wait().exit_code, 0);
  for (int worker = 1; worker < scene_.options().workers; ++worker) {
    EXPECT_EQ(scene_.worker(worker).Wait().exit_code, 0) << worker;
  }
  scene_.KillServer();
  scene_.StartServer();
  scene_.worker(0).Signal(SIGCONT);
  const ProcessResult older = scene_.worker(0).Wait();
  EXPECT_EQ(older.exit_code, 1);
  EXPECT_THAT(older.err, HasSubstr("another process uses its worker id"));
  scene_.CheckAll();
}

}  // namespace
}  // namespace calib::test
