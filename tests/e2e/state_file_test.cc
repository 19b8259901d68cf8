// Calibrations of two sites merged by files, with the real programs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class StateFileTest : public testing::Test {
 protected:
  // Layers of the golden data, those with this remainder or all, to a server's session.
  static void Push(const Server& server, const std::string& session, int begin, int end) {
    std::vector<std::string> arguments = {"push", session, "--ranks", "2"};
    const std::vector<std::string> layers = GoldenArguments();
    for (int i = begin; i < end; ++i) arguments.push_back(layers[static_cast<size_t>(i)]);
    CalibctlOk(server.address(), arguments);
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  // One clear line, exit code 1.
  static void ExpectError(const ProcessResult& result, const std::string& message) {
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_THAT(result.err, StartsWith("calibctl: "));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
  std::vector<std::string> FilesInFolder() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  TemporaryFolder folder_;
};

TEST_F(StateFileTest, TwoSitesMergedAreOneThatSawAll) {
  const int layers = static_cast<int>(GoldenArguments().size());
  Server site_a, site_b, whole;
  for (const Server* server : {&site_a, &site_b, &whole}) CalibctlOk(server->address(), {"session", "create", "model"});
  // Some layers at both sites, so that their values merge.
  Push(site_a, "model", 0, layers * 2 / 3);
  Push(site_b, "model", layers / 3, layers);
  Push(whole, "model", 0, layers * 2 / 3);
  Push(whole, "model", layers / 3, layers);
  CalibctlOk(site_a.address(), {"session", "export-state", "model", Path("a.state")});
  const Json exported = CalibctlJson(site_b.address(), {"session", "export-state", "model", Path("b.state")});
  EXPECT_EQ(exported.at("bytes"), std::filesystem::file_size(Path("b.state")));
  EXPECT_EQ(exported.at("digest").get<std::string>().size(), 32u);
  EXPECT_EQ(FilesInFolder(), (std::vector<std::string>{"a.state", "b.state"}));

  Server merged;
  ExpectError(Calibctl(merged.address(), {"session", "import-state", "model", Path("a.state")}), "[SESSION_NOT_FOUND]");
  CalibctlOk(merged.address(), {"session", "import-state", "model", Path("a.state"), "--create"});
  const Json second = CalibctlJson(merged.address(), {"session", "import-state", "model", Path("b.state"), "--create"});
  EXPECT_EQ(second.at("already_merged"), false);
  EXPECT_EQ(second.at("layers"), layers - layers / 3);
  EXPECT_EQ(second.at("values"), exported.at("values"));
  for (const char* method : {"mse", "minmax", "percentile"}) {
    const std::vector<std::string> query = {"qparams", "model", "--method", method, "--json"};
    EXPECT_EQ(CalibctlOk(merged.address(), query), CalibctlOk(whole.address(), query)) << method;
  }

  // Once more changes nothing, and neither does what overlaps.
  const Json again = CalibctlJson(merged.address(), {"session", "import-state", "model", Path("b.state")});
  EXPECT_EQ(again.at("already_merged"), true);
  const Json shown = CalibctlJson(merged.address(), {"session", "show", "model"});
  EXPECT_EQ(shown.at("imported").size(), 2u);
  EXPECT_EQ(shown.at("imported").at(1).at("digest"), exported.at("digest"));
  CalibctlOk(merged.address(), {"session", "export-state", "model", Path("c.state")});
  ExpectError(Calibctl(site_a.address(), {"session", "import-state", "model", Path("c.state")}), "[STATE_OVERLAPS]");
  const Json inspected = CalibctlJson("127.0.0.1:1", {"session", "inspect-state", Path("c.state")});
  EXPECT_EQ(inspected.at("lineage").size(), 3u);
  EXPECT_EQ(inspected.at("layers").size(), GoldenLayers().size());
  EXPECT_EQ(inspected.at("values"), shown.at("values"));
  EXPECT_THAT(CalibctlOk("127.0.0.1:1", {"session", "inspect-state", Path("c.state")}), HasSubstr("fc1"));
  EXPECT_THAT(CalibctlOk(merged.address(), {"session", "show", "model"}), HasSubstr("imported state "));
}

TEST_F(StateFileTest, WhatWasAnsweredSurvivesAKill) {
  const std::vector<std::string> options = {"--store", "rocksdb:" + Path("store"), "--checkpoint-interval", "1h"};
  Server site;
  CalibctlOk(site.address(), {"session", "create", "s"});
  CalibctlOk(site.address(), {"push", "s", "fc1=" + GoldenFile("fc1")});
  CalibctlOk(site.address(), {"session", "export-state", "s", Path("s.state")});
  const std::vector<std::string> query = {"qparams", "s", "--method", "mse", "--json"};
  {
    Server killed(options);
    CalibctlOk(killed.address(), {"session", "import-state", "s", Path("s.state"), "--create"});
    killed.process().Signal(SIGKILL);
    killed.process().Wait();
  }
  Server again(options);
  EXPECT_EQ(CalibctlOk(again.address(), query), CalibctlOk(site.address(), query));
  const Json repeated = CalibctlJson(again.address(), {"session", "import-state", "s", Path("s.state")});
  EXPECT_EQ(repeated.at("already_merged"), true);
  EXPECT_EQ(CalibctlOk(again.address(), query), CalibctlOk(site.address(), query));
}

TEST_F(StateFileTest, DamagedFilesAreRefusedBeforeAnythingIsSent) {
  Server server;
  CalibctlOk(server.address(), {"session", "create", "s"});
  CalibctlOk(server.address(), {"push", "s", "fc1=" + GoldenFile("fc1")});
  CalibctlOk(server.address(), {"session", "export-state", "s", Path("s.state")});
  const std::string good = ReadFile(Path("s.state"));
  const auto refused = [&](const std::string& content, const std::string& message) {
    const std::string path = folder_.Write("bad.state", content);
    // No server is asked.
    ExpectError(Calibctl("127.0.0.1:1", {"session", "import-state", "s", path}), path + ": " + message);
    ExpectError(Calibctl("127.0.0.1:1", {"session", "inspect-state", path}), path + ": " + message);
  };
  std::string flipped = good;
  flipped[good.size() / 2] ^= 4;
  refused(flipped, "byte ");
  refused(good.substr(0, good.size() - 1), "byte " + std::to_string(good.size() - 1) + ": the state file ends here");
  refused(good + "x", "byte " + std::to_string(good.size()) + ": the state file goes on");
  refused("not a state file", "byte 0: this is no state file");
  refused("", "byte 0: the state file ends here");
  ExpectError(Calibctl("127.0.0.1:1", {"session", "import-state", "s", Path("none")}), Path("none"));
  // A pipe that nobody writes to is no reason to wait.
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  ExpectError(Calibctl("127.0.0.1:1", {"session", "import-state", "s", Path("pipe")}), "is not a plain file");
}

TEST_F(StateFileTest, AFileIsThereWholeOrNotAtAll) {
  Server server;
  ExpectError(Calibctl(server.address(), {"session", "export-state", "nobody", Path("n.state")}),
              "[SESSION_NOT_FOUND]");
  CalibctlOk(server.address(), {"session", "create", "s"});
  CalibctlOk(server.address(), {"push", "s", "fc1=" + GoldenFile("fc1")});
  const std::string kept = folder_.Write("kept.state", "mine");
  ExpectError(Calibctl(server.address(), {"session", "export-state", "s", kept}), kept + ": exists; give --force");
  EXPECT_EQ(ReadFile(kept), "mine");
  CalibctlOk(server.address(), {"session", "export-state", "s", kept, "--force"});
  EXPECT_EQ(CalibctlJson("127.0.0.1:1", {"session", "inspect-state", kept}).at("session"), "s");
  ExpectError(Calibctl(server.address(), {"session", "export-state", "s", "/dev/null", "--force"}),
              "/dev/null: is not a plain file");
  ExpectError(Calibctl(server.address(), {"session", "export-state", "s", Path("no/folder")}), Path("no/folder"));
  EXPECT_EQ(FilesInFolder(), std::vector<std::string>{"kept.state"});
  // Through standard output the same bytes come.
  EXPECT_EQ(CalibctlOk(server.address(), {"session", "export-state", "s", "-"}), ReadFile(kept));
  // And through standard input they go.
  const ProcessResult piped =
      RunProcess({"/bin/sh", "-c", "cat \"$1\" | \"$0\" --server \"$2\" session import-state t - --create",
                  CALIB_BIN_DIR "/calibctl", kept, server.address()});
  EXPECT_EQ(piped.exit_code, 0) << piped.err;
  EXPECT_THAT(piped.out, HasSubstr("merged into session t"));
}

}  // namespace
}  // namespace calib::test
