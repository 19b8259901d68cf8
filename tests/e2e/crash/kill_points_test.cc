// The server is killed at each named place of its write path, the first time that it comes there and later.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <ostream>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/base/kill_point.h"
#include "tests/e2e/crash/crash_scene.h"

namespace calib::test {
namespace {

namespace kill_points = server::kill_points;
using testing::HasSubstr;

constexpr char kScratch[] = "scratch";

// Makes and deletes another session.
void DeleteOneSession(client::Client* client) {
  v1::CreateSessionRequest create;
  create.set_session(kScratch);
  const auto created = client->CreateSession(create);
  ASSERT_TRUE(created.ok()) << created.status();
  v1::DeleteSessionRequest remove;
  remove.set_session(kScratch);
  const auto removed = client->DeleteSession(remove);
  // Repeated after the crash, the call finds that it had taken effect.
  ASSERT_TRUE(removed.ok() || absl::IsNotFound(removed.status())) << removed.status();
}

void ExpectNoScratch(client::Client* client) {
  v1::GetSessionRequest get;
  get.set_session(kScratch);
  EXPECT_TRUE(absl::IsNotFound(client->GetSession(get).status()));
}

struct Occurrence {
  const char* name;
  bool first;
};

void PrintTo(const Occurrence& occurrence, std::ostream* out) {
  *out << occurrence.name << (occurrence.first ? ", first" : ", later");
}

std::vector<Occurrence> Occurrences() {
  std::vector<Occurrence> all;
  for (const char* const name : kill_points::kAll) {
    all.push_back({name, true});
    all.push_back({name, false});
  }
  return all;
}

std::string TestName(const testing::TestParamInfo<Occurrence>& info) {
  return absl::StrCat(absl::StrReplaceAll(info.param.name, {{".", "_"}}), info.param.first ? "_First" : "_Later");
}

class KillPointTest : public testing::TestWithParam<Occurrence> {
 protected:
  bool IsOf(const char* operation) const { return absl::StartsWith(GetParam().name, operation); }
  std::string Entry(int when) const { return absl::StrCat(GetParam().name, ":", when, ":kill"); }
};

TEST_P(KillPointTest, NothingIsLostOrCountedTwice) {
  const auto [name, first] = GetParam();
  CrashScene scene({.seed = static_cast<uint64_t>(std::find(kill_points::kAll.begin(), kill_points::kAll.end(), name) -
                                                  kill_points::kAll.begin())});
  if (IsOf("open")) {
    scene.StartServer();
    scene.CreateSession();
    scene.StartWorkers();
    ASSERT_TRUE(scene.AwaitDurable(0, 5));
    scene.KillServer();
    for (int start = 0; start < (first ? 1 : 3); ++start) {
      const ProcessResult result = RunProcess(scene.ServerCommand(), {"CALIBD_KILL_POINT=" + Entry(1)});
      EXPECT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
    }
    scene.RestartAndCheck();
    scene.Finish();
    return;
  }
  const int deletions = IsOf("delete") ? (first ? 1 : 3) : 0;
  scene.StartServer(Entry(first ? 1 : deletions > 0 ? deletions : IsOf("apply") ? 60 : 10));
  std::thread creation([&] { scene.CreateSession(); });
  // The first checkpoint is that of the session that is made.
  const bool kills_creation = first && (IsOf("checkpoint") || IsOf("commit"));
  if (!kills_creation) {
    creation.join();
    scene.StartWorkers();
  }
  std::thread deletion([&] {
    for (int i = 0; i < deletions; ++i) DeleteOneSession(&scene.client());
  });
  scene.AwaitServerKill();
  scene.RestartAndCheck();
  deletion.join();
  if (kills_creation) {
    creation.join();
    scene.StartWorkers();
  }
  scene.Finish();
  ExpectNoScratch(&scene.client());
}

INSTANTIATE_TEST_SUITE_P(, KillPointTest, testing::ValuesIn(Occurrences()), TestName);

TEST(KillPointsTest, EveryOneIsReached) {
  std::vector<std::string> entries;
  for (const char* const name : kill_points::kAll) entries.push_back(absl::StrCat(name, ":0:count"));
  CrashScene scene({.workers = 1, .steps = 3});
  scene.StartServer(absl::StrJoin(entries, ","));
  scene.CreateSession();
  scene.StartWorkers();
  scene.AwaitWorkers();
  DeleteOneSession(&scene.client());
  for (const char* const name : kill_points::kAll) {
    ASSERT_TRUE(scene.server().WaitForOutput(absl::StrCat("reached ", name, "\n"), absl::Seconds(20))) << name;
  }
}

TEST(KillPointsTest, AMistakeIsReported) {
  for (const char* const mistake :
       {"commit.nowhere:1:kill", "commit.begin:0:kill", "commit.begin:1:count", "commit.begin:x:kill",
        "commit.begin:1:explode", "commit.begin:1", "commit.begin:1:kill,", ":"}) {
    const ProcessResult result =
        RunProcess(CrashScene().ServerCommand(), {absl::StrCat("CALIBD_KILL_POINT=", mistake)});
    EXPECT_EQ(result.exit_code, 2) << mistake;
    EXPECT_THAT(result.err, HasSubstr("CALIBD_KILL_POINT: ")) << mistake;
  }
}

// A server that hangs, as on a disk that does not answer, for longer than any connection lasts.
TEST(KillPointsTest, AServerThatStandsStillGoesOn) {
  for (const char* const name : {kill_points::kApplyBegin, kill_points::kCheckpointCut, kill_points::kCommitWritten}) {
    SCOPED_TRACE(name);
    CrashScene scene({.seed = 21});
    scene.StartServer(absl::StrCat(name, ":7:stop"));
    scene.CreateSession();
    scene.StartWorkers();
    ASSERT_TRUE(scene.server().WaitForOutput(absl::StrCat("stopped at ", name)));
    scene.server().AwaitStop();
    const int connections = scene.proxy().connections();
    scene.proxy().CutAll();
    // Workers come back, and the kernel takes their connections for the server.
    const absl::Time deadline = absl::Now() + absl::Minutes(1);
    while (scene.proxy().connections() == connections) {
      ASSERT_LT(absl::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(1));
    }
    // Nobody else may have its store meanwhile.
    const ProcessResult second = RunProcess(scene.ServerCommand());
    EXPECT_EQ(second.exit_code, 1);
    EXPECT_THAT(second.err, HasSubstr(scene.store()));
    scene.server().Signal(SIGCONT);
    scene.Finish();
  }
}

}  // namespace
}  // namespace calib::test
