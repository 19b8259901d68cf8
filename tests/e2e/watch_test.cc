// `calibctl watch` beside a push.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <sstream>

#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

class WatchTest : public testing::Test {
 protected:
  WatchTest() { CalibctlOk(server_.address(), {"session", "create", "golden"}); }

  std::vector<std::string> WatchCommand(const std::vector<std::string>& options = {}) {
    return CalibctlCommand(server_.address(), Join({"watch", "golden", "--interval", "0.05"}, options));
  }
  void Push(const std::string& layer) {
    CalibctlOk(server_.address(), {"push", "golden", layer + "=" + GoldenFile(layer), "--ranks", "2"});
  }

  Server server_;
};

TEST_F(WatchTest, ShowsProgressAndEndsWhenSealed) {
  Process watch(WatchCommand({"--json"}));
  ASSERT_TRUE(watch.WaitForOutput("\"values\":0"));
  Push("fc1");
  ASSERT_TRUE(watch.WaitForOutput("\"values\":12288,"));
  Push("logits");
  ASSERT_TRUE(watch.WaitForOutput("\"values\":14208,"));
  CalibctlOk(server_.address(), {"session", "seal", "golden"});
  const ProcessResult result = watch.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;

  std::istringstream lines(result.out);
  Json last;
  uint64_t values = 0;
  for (std::string line; std::getline(lines, line);) {
    last = Json::parse(line);
    EXPECT_GE(last.at("values").get<uint64_t>(), values);
    values = last.at("values");
  }
  EXPECT_EQ(last.at("sealed"), true);
  EXPECT_EQ(last.at("layer_count"), 2);
  ASSERT_EQ(last.at("workers").size(), 4u);
  for (const Json& worker : last.at("workers")) EXPECT_EQ(worker.at("applied"), worker.at("durable"));
}

TEST_F(WatchTest, AppendsLinesWhereThereIsNoTerminal) {
  Process watch(WatchCommand());
  Push("fc1");
  ASSERT_TRUE(watch.WaitForOutput("golden: open, 12288 values"));
  EXPECT_THAT(watch.out(), testing::Not(testing::HasSubstr("\x1b")));
  CalibctlOk(server_.address(), {"session", "seal", "golden"});
  const ProcessResult result = watch.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, testing::HasSubstr("golden: sealed, 12288 values"));
}

TEST_F(WatchTest, EndsCleanlyOnCtrlC) {
  Process watch(WatchCommand({"--json"}));
  ASSERT_TRUE(watch.WaitForOutput("\n"));
  watch.Signal(SIGINT);
  const ProcessResult result = watch.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out.back(), '\n');
}

TEST_F(WatchTest, EndsWithAnErrorWhenTheSessionIsDeleted) {
  Process watch(WatchCommand());
  ASSERT_TRUE(watch.WaitForOutput("\n"));
  CalibctlOk(server_.address(), {"session", "delete", "golden"});
  const ProcessResult result = watch.Wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, testing::HasSubstr("[SESSION_DELETED]"));
}

}  // namespace
}  // namespace calib::test
