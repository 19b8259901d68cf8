// SIGTERM and Ctrl-C while data flows: every process ends in time, and says what happened.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "tests/e2e/fleet.h"
#include "tests/support/tcp_proxy.h"

namespace calib::test {
namespace {

using testing::HasSubstr;

int Port(const Server& server) { return std::stoi(server.address().substr(server.address().rfind(':') + 1)); }

// A push that goes on for long: `steps` small steps of zeros, raw.
std::string ManySteps(const TemporaryFolder& folder, int steps) {
  const std::string shape = absl::StrCat("(", steps, ", 1000)");
  return absl::StrCat(
      "zeros=", folder.Write("zeros.npy", NpyText("<f4", shape, std::string(4000 * static_cast<size_t>(steps), '\0'))));
}

// Values that the server counted so far.
uint64_t Values(const Server& server) { return CalibctlJson(server.address(), {"session", "show", "s"}).at("values"); }

class ShutdownTest : public testing::Test {
 protected:
  void StartPush(const std::string& address, const std::vector<std::string>& options = {}) {
    push_ = std::make_unique<Process>(
        CalibctlCommand(address, Join({"push", "s", ManySteps(folder_, 50000), "--raw", "--ranks", "2"}, options)));
  }
  void WaitForData(const Server& server) {
    while (Values(server) == 0) ASSERT_TRUE(push_->running()) << push_->Wait().err;
  }

  TemporaryFolder folder_;
  std::unique_ptr<Process> push_;
};

TEST_F(ShutdownTest, IdleServerEndsOnSigterm) {
  Server server;
  server.process().Signal(SIGTERM);
  const ProcessResult result = server.process().Wait(absl::Seconds(10));
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(ShutdownTest, ServerDrainsUnderLoadAndThePushEndsWithAnError) {
  Server server({"--drain-timeout", "10s"});
  CalibctlOk(server.address(), {"session", "create", "s"});
  StartPush(server.address(), {"--timeout", "2"});
  WaitForData(server);
  server.process().Signal(SIGTERM);
  const ProcessResult stopped = server.process().Wait(absl::Seconds(15));
  EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
  const ProcessResult push = push_->Wait(absl::Seconds(60));
  EXPECT_EQ(push.exit_code, 1);
  EXPECT_EQ(push.out, "");
  EXPECT_THAT(push.err, HasSubstr(server.address()));
}

TEST_F(ShutdownTest, AServerThatForgotTheSessionEndsThePush) {
  auto server = std::make_unique<Server>();
  TcpProxy proxy(Port(*server));
  CalibctlOk(server->address(), {"session", "create", "s"});
  StartPush(proxy.address());
  WaitForData(*server);
  const Server successor;
  proxy.SetServerPort(Port(successor));
  server->process().Signal(SIGTERM);
  EXPECT_EQ(server->process().Wait().exit_code, 0);
  const ProcessResult push = push_->Wait(absl::Seconds(60));
  EXPECT_EQ(push.exit_code, 1);
  EXPECT_THAT(push.err, HasSubstr("[SESSION_NOT_FOUND]"));
}

TEST_F(ShutdownTest, CtrlCEndsAPushAndWhatItSaysIsThere) {
  Server server;
  CalibctlOk(server.address(), {"session", "create", "s"});
  StartPush(server.address());
  WaitForData(server);
  push_->Signal(SIGINT);
  const ProcessResult push = push_->Wait();
  EXPECT_EQ(push.exit_code, 130);
  EXPECT_THAT(push.err, HasSubstr("interrupted: "));
  const std::string pushed = push.err.substr(push.err.find("interrupted: ") + 13);
  EXPECT_EQ(std::stoull(pushed), Values(server));
}

TEST_F(ShutdownTest, DeletingTheSessionEndsThePush) {
  Server server;
  CalibctlOk(server.address(), {"session", "create", "s"});
  StartPush(server.address());
  WaitForData(server);
  CalibctlOk(server.address(), {"session", "delete", "s"});
  const ProcessResult push = push_->Wait(absl::Seconds(60));
  EXPECT_EQ(push.exit_code, 1);
  EXPECT_THAT(push.err, testing::AnyOf(HasSubstr("[SESSION_DELETED]"), HasSubstr("[SESSION_NOT_FOUND]")));
}

}  // namespace
}  // namespace calib::test
