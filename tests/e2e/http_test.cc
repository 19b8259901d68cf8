// The HTTP port of a running server: metrics and probes, as Prometheus and an orchestrator see them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <sstream>

#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

struct Answer {
  int status = 0;
  std::string body;
};

Answer Get(const Server& server, const std::string& path) {
  httplib::Client client("http://" + server.http());
  const httplib::Result result = client.Get(path);
  EXPECT_TRUE(result) << path << ": " << httplib::to_string(result.error());
  return result ? Answer{result->status, result->body} : Answer{};
}

// Sum of a metric over its labels.
double Metric(const Server& server, const std::string& name) {
  std::istringstream lines(Get(server, "/metrics").body);
  double sum = 0;
  for (std::string line; std::getline(lines, line);) {
    const size_t end = line.find_first_of(" {");
    if (line.substr(0, end) == name) sum += std::stod(line.substr(line.rfind(' ') + 1));
  }
  return sum;
}

TEST(HttpTest, ProbesAnswer) {
  const Server server;
  EXPECT_EQ(Get(server, "/healthz").status, 200);
  EXPECT_EQ(Get(server, "/readyz").status, 200);
  EXPECT_EQ(Get(server, "/nowhere").status, 404);
}

TEST(HttpTest, HealthCommandAgrees) {
  const Server server;
  EXPECT_EQ(CalibctlOk(server.address(), {"health"}), server.address() + " is serving\n");
  EXPECT_EQ(CalibctlJson(server.address(), {"health"}), Json({{"server", server.address()}, {"serving", true}}));
}

TEST(HttpTest, EveryMetricHasThePrefix) {
  const Server server;
  std::istringstream lines(Get(server, "/metrics").body);
  int metrics = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    EXPECT_THAT(line, testing::AnyOf(testing::StartsWith("calibd_"), testing::StartsWith("process_")));
    metrics += line.rfind("calibd_", 0) == 0;
  }
  EXPECT_GE(metrics, 5);
}

TEST(HttpTest, MetricsMoveWithThePush) {
  const Server server;
  CalibctlOk(server.address(), {"session", "create", "golden"});
  const double before = Metric(server, "calibd_values_observed_total");
  CalibctlOk(server.address(), {"push", "golden", "fc1=" + GoldenFile("fc1")});
  EXPECT_EQ(Metric(server, "calibd_values_observed_total") - before, 6 * 32 * 64);
}

}  // namespace
}  // namespace calib::test
