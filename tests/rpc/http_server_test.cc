#include "server/web/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/rpc/method.h"
#include "server/web/metrics.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// The whole answer to a GET, headers included.
std::string Get(const ListenAddress& address, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(address.port));
  inet_pton(AF_INET, address.host.c_str(), &to.sin_addr);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    (void)!write(fd, request.data(), request.size());
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  return answer;
}

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest() : metrics_(&counters_) {
    HttpServer::Handlers handlers;
    handlers.metrics = [this] { return MetricsText(metrics_); };
    handlers.ready = [this] { return ready_; };
    http_ = *HttpServer::Start({"127.0.0.1", 0}, std::move(handlers));
  }

  Counters counters_;
  MetricsCollector metrics_;
  absl::Status ready_;
  std::unique_ptr<HttpServer> http_;
};

TEST_F(HttpServerTest, ServesMetricsInPrometheusFormat) {
  counters_.updates_applied = 7;
  counters_.checkpoint_micros = 1'500'000;
  counters_.streams = 3;
  counters_.refusals[v1::ERROR_REASON_SEQUENCE_GAP] = 2;
  CountCall(&counters_, Method::kFlush, grpc::StatusCode::NOT_FOUND);
  const std::string answer = Get(http_->address(), "/metrics");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(answer, HasSubstr("# TYPE calibd_updates_applied_total counter\ncalibd_updates_applied_total 7\n"));
  EXPECT_THAT(answer, HasSubstr("calibd_checkpoint_seconds_total 1.5\n"));
  EXPECT_THAT(answer, HasSubstr("# TYPE calibd_streams gauge\ncalibd_streams 3\n"));
  EXPECT_THAT(answer, HasSubstr("calibd_refusals_total{reason=\"SEQUENCE_GAP\"} 2\n"));
  EXPECT_THAT(answer, HasSubstr("calibd_rpcs_total{rpc=\"Flush\",code=\"NOT_FOUND\"} 1\n"));
  EXPECT_THAT(answer, Not(HasSubstr("UNSPECIFIED")));
}

TEST_F(HttpServerTest, ReadinessHasItsReasonAndLivenessDoesNotFollowIt) {
  EXPECT_THAT(Get(http_->address(), "/readyz"), StartsWith("HTTP/1.1 200"));
  ready_ = MakeError(v1::ERROR_REASON_SERVER_DRAINING, "the server is shutting down");
  const std::string answer = Get(http_->address(), "/readyz");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer, HasSubstr("the server is shutting down\n"));
  EXPECT_THAT(Get(http_->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, OtherPathsAreNotFound) {
  EXPECT_THAT(Get(http_->address(), "/etc/passwd"), StartsWith("HTTP/1.1 404"));
}

TEST_F(HttpServerTest, ManyClientsAreServed) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < 20; ++i) EXPECT_THAT(Get(http_->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(HttpServerTest, ATakenPortIsAClearError) {
  const auto second = HttpServer::Start(http_->address(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(std::string(second.status().message()),
            absl::StrCat("cannot listen on ", http_->address().ToString(), ": address already in use"));
}

}  // namespace
}  // namespace calib::server
