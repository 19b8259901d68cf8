// Stores that earlier versions wrote open, and hold what they held.
//
// tests/golden/store_v1/ was written by the disabled test below, and never will be again:
//   build/bin/store_test --gtest_also_run_disabled_tests --gtest_filter='*WriteAStoreOfThisVersion'
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/checkpoints.h"
#include "tests/store/temporary_store.h"

namespace calib::server::test {
namespace {

const std::string kGolden = std::string(CALIB_GOLDEN_DIR) + "/store_v1";

std::string ReadText(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(GoldenStoreTest, Version1Opens) {
  const std::string expected = ReadText(kGolden + "/sessions.txt");
  ASSERT_FALSE(expected.empty());
  const TemporaryFolder folder;
  folder.CopyFrom(kGolden + "/store");
  for (int run = 0; run < 2; ++run) {  // also as this version leaves it
    const auto store = StoreIn(folder);
    const absl::StatusOr<uint64_t> epoch = store->Open();
    ASSERT_TRUE(epoch.ok()) << epoch.status();
    const absl::StatusOr<std::vector<SessionCheckpoint>> sessions = store->Load();
    ASSERT_TRUE(sessions.ok()) << sessions.status();
    EXPECT_EQ(sessions->size(), 3u);
    ASSERT_EQ(Describe(*sessions), expected);
    // And takes commits.
    ASSERT_TRUE(store->Commit(*epoch, {sessions->front()}).ok());
    ASSERT_EQ(Describe(store->Load().value()), expected);
  }
}

// Sessions in tables and in the log.
TEST(GoldenStoreTest, DISABLED_WriteAStoreOfThisVersion) {
  const TemporaryFolder folder;
  Rng rng(1);
  std::map<std::string, SessionCheckpoint> all;
  for (int run = 0; run < 3; ++run) {
    const auto store = StoreIn(folder);
    const uint64_t epoch = store->Open().value();
    for (const char* const name : {"cnn", "llm", "plain"}) {
      const auto found = all.find(name);
      SessionCheckpoint change;
      if (name == std::string("plain")) {
        change = all[name] = PlainCheckpoint(name);
      } else {
        change = found != all.end() ? RandomChange(rng, &found->second) : all[name] = RandomCheckpoint(rng, name);
      }
      ASSERT_TRUE(store->Commit(epoch, {change}).ok());
    }
    ASSERT_TRUE(store->Commit(epoch, {RandomCheckpoint(rng, "gone")}).ok());
    ASSERT_TRUE(store->Delete(epoch, "gone").ok());
  }
  std::filesystem::create_directories(kGolden + "/store");
  for (const std::string& file : folder.Files()) {
    if (absl::StartsWith(file, "LOG") || file == "LOCK") continue;
    std::filesystem::copy_file(folder.path() + "/" + file, kGolden + "/store/" + file);
  }
  std::ofstream text(kGolden + "/sessions.txt", std::ios::binary);
  for (const auto& [name, session] : all) text << Describe(session);
}

}  // namespace
}  // namespace calib::server::test
