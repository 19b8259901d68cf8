// The disk is full, and comes back; it can't be written.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <signal.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "tests/e2e/crash/crash_scene.h"
#include "tests/e2e/crash/small_disk.h"

namespace calib::test {
namespace {

using testing::HasSubstr;

constexpr char kNotReady[] = "not ready: nothing more is acknowledged";

class DiskTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!disk_.status().ok()) GTEST_SKIP() << disk_.status().message();
  }
  int Readiness() {
    const std::vector<std::string> address = absl::StrSplit(scene_.server().WaitForAddress("http"), ':');
    const httplib::Result result = httplib::Client(address[0], std::stoi(address[1])).Get("/readyz");
    return result ? result->status : 0;
  }

  // The server stands still meanwhile: on a disk in memory workers would be done before it is full.
  void FillWhileServing() {
    scene_.server().Signal(SIGSTOP);
    scene_.server().AwaitStop();
    disk_.Fill();
    scene_.server().Signal(SIGCONT);
  }

  const TemporaryFolder folder_;
  // Too small for RocksDB to reserve its log in advance, which would go on to take commits on a full disk.
  SmallDisk disk_{folder_.path() + "/disk", 16};
  CrashScene scene_{{.seed = 10, .workers = 4, .steps = 100, .store = folder_.path() + "/disk/store"}};
};

TEST_F(DiskTest, AFullDiskStopsAcknowledgementsUntilThereIsRoom) {
  scene_.StartServer("", {"--http", "127.0.0.1:0", "--checkpoint-interval", "20ms"});
  scene_.CreateSession();
  scene_.StartWorkers();
  ASSERT_TRUE(scene_.AwaitDurable(0, 3));
  EXPECT_EQ(Readiness(), 200);
  FillWhileServing();
  ASSERT_TRUE(scene_.server().WaitForError(kNotReady)) << scene_.server().err();
  EXPECT_THAT(scene_.server().err(), HasSubstr("no space left on its file system"));
  EXPECT_EQ(Readiness(), 503);

  client::ClientOptions once;
  once.server = scene_.server_address();
  once.retry_unavailable = false;
  client::Client client(once);
  EXPECT_TRUE(absl::IsUnavailable(client.CheckHealth()));
  v1::FlushRequest flush;
  flush.set_session(CrashScene::kSession);
  const absl::Status flushed = client.Flush(flush).status();
  EXPECT_TRUE(absl::IsUnavailable(flushed)) << flushed;
  EXPECT_THAT(flushed.message(), HasSubstr("no space left on its file system"));

  disk_.MakeRoom();
  ASSERT_TRUE(scene_.server().WaitForError("the store takes commits again")) << scene_.server().err();
  scene_.Finish();
}

// No step by hand but the restart: also where the disk filled up as the server started.
TEST_F(DiskTest, ARestartAfterAFullDiskFindsEverything) {
  scene_.StartServer();
  scene_.CreateSession();
  scene_.StartWorkers();
  ASSERT_TRUE(scene_.AwaitDurable(0, 3));
  FillWhileServing();
  ASSERT_TRUE(scene_.server().WaitForError(kNotReady)) << scene_.server().err();
  scene_.KillServer();
  const ProcessResult full = RunProcess(scene_.ServerCommand());
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_EQ(std::count(full.err.begin(), full.err.end(), '\n'), 1) << full.err;
  disk_.MakeRoom();
  scene_.RestartAndCheck();
  scene_.Finish();
}

TEST_F(DiskTest, AReadOnlyDiskIsRefused) {
  scene_.StartServer();
  scene_.server().Signal(SIGTERM);
  EXPECT_EQ(scene_.server().Wait().exit_code, 0);
  disk_.MakeReadOnly();
  const ProcessResult result = RunProcess(scene_.ServerCommand());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_THAT(result.err, HasSubstr(scene_.store()));
}

}  // namespace
}  // namespace calib::test
