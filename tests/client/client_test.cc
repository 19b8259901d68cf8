#include "client/cpp/client.h"

#include <string>
#include <thread>

#include "proto/codec/error.h"
#include "tests/client/client_fixture.h"

namespace calib::client {
namespace {

using ::testing::HasSubstr;

class ClientTest : public ClientFixture {};

TEST_F(ClientTest, ErrorsCarryTheServersErrorInfo) {
  v1::GetSessionRequest request;
  request.set_session("nowhere");
  const auto response = client_->GetSession(request);
  EXPECT_TRUE(absl::IsNotFound(response.status())) << response.status();
  EXPECT_EQ(GetReason(response.status()), v1::ERROR_REASON_SESSION_NOT_FOUND);
}

TEST_F(ClientTest, AServerThatIsNotThereIsNamedAtOnce) {
  const std::string address = proxy_->address();
  proxy_.reset();  // connections are refused from now on
  ClientOptions options = OptionsFor(address);
  options.retry_unavailable = false;
  Client client(options);
  const absl::Time begin = absl::Now();
  const absl::Status status = client.ListSessions({}).status();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot reach calibd at " + address + ": "));
  EXPECT_TRUE(absl::IsUnavailable(client.CheckHealth()));
}

TEST_F(ClientTest, RetriesUntilTheServerIsBack) {
  proxy_->CutAfter(0);  // the first attempt fails
  CreateSession("s");
  EXPECT_GE(proxy_->connections(), 2);
}

TEST_F(ClientTest, GivesUpAfterTheCallTimeout) {
  proxy_->SetAway(true);
  ClientOptions options = OptionsFor(proxy_->address());
  options.call_timeout = absl::Milliseconds(500);
  Client client(options);
  const absl::Time begin = absl::Now();
  const absl::Status status = client.ListSessions({}).status();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

TEST_F(ClientTest, ADeletionWhoseAnswerWasLostSucceeds) {
  CreateSession("s");
  v1::DeleteSessionRequest request;
  request.set_session("s");
  EXPECT_TRUE(client_->DeleteSession(request).ok());
  EXPECT_EQ(GetReason(client_->DeleteSession(request).status()), v1::ERROR_REASON_SESSION_NOT_FOUND);
  // A repeated attempt finds nothing either, and that is what was asked for.
  proxy_->SetAway(true);
  std::thread returns([&] {
    while (proxy_->refusals() < 2) std::this_thread::yield();
    proxy_->SetAway(false);
  });
  const absl::Status repeated = client_->DeleteSession(request).status();
  returns.join();
  EXPECT_TRUE(repeated.ok()) << repeated;
}

TEST_F(ClientTest, HealthFollowsTheServer) {
  EXPECT_TRUE(client_->CheckHealth().ok()) << client_->CheckHealth();
  ASSERT_TRUE(server_->Stop(kLong).ok());
  EXPECT_TRUE(absl::IsUnavailable(client_->CheckHealth()));
}

TEST_F(ClientTest, WatchingEndsWhenTheCallerOrTheSessionIsDone) {
  CreateSession("s");
  v1::WatchQParamsRequest watch;
  watch.set_session("s");
  watch.set_interval_ms(50);
  int states = 0;
  EXPECT_TRUE(client_->WatchQParams(watch, [&](const v1::WatchQParamsResponse&) { return ++states < 1; }).ok());
  EXPECT_EQ(states, 1);

  const auto seal = [&](const v1::WatchQParamsResponse& state) {
    v1::SealSessionRequest request;
    request.set_session("s");
    EXPECT_TRUE(state.session().sealed() || client_->SealSession(request).ok());
    return true;
  };
  EXPECT_TRUE(client_->WatchQParams(watch, seal).ok());

  watch.set_session("nowhere");
  const absl::Status status = client_->WatchQParams(watch, [](const v1::WatchQParamsResponse&) { return true; });
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_SESSION_NOT_FOUND) << status;
}

}  // namespace
}  // namespace calib::client
