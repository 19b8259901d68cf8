// The first promise: however the golden layers are split over workers, sent and interrupted, `calibctl qparams --json`
// prints the same bytes, and the server holds the same histograms.

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "client/cpp/client.h"
#include "tests/e2e/fleet.h"
#include "tests/support/tcp_proxy.h"

namespace calib::test {
namespace {

// Everything that is compared between two fleets.
struct Results {
  std::vector<std::string> qparams;  // one a query
  std::string statistics;            // all layers, serialized
};

const std::vector<std::vector<std::string>>& Queries() {
  static const auto& queries = *new std::vector<std::vector<std::string>>{
      {},
      {"--method", "mse"},
      {"--method", "mse", "--dtype", "uint8", "--affine"},
      {"--method", "mse", "--dtype", "int4", "--preset", "tensorrt"},
      {"--method", "percentile", "--percentile", "99.9", "--narrow"},
      {"--method", "coverage", "--limit", "0.999", "--dtype", "int2", "--affine"},
  };
  return queries;
}

std::string AllStatistics(const std::string& address, const std::string& session) {
  client::ClientOptions options;
  options.server = address;
  client::Client client(options);
  v1::GetStatisticsRequest request;
  request.set_session(session);
  std::string all;
  do {
    const auto response = client.GetStatistics(request);
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) return all;
    request.set_page_token(response->next_page_token());
    v1::GetStatisticsResponse page = *response;
    page.clear_next_page_token();
    all += page.SerializeAsString();
  } while (!request.page_token().empty());
  return all;
}

Results Collect(const std::string& address, const std::string& session,
                const std::vector<std::vector<std::string>>& queries) {
  Results results;
  for (const std::vector<std::string>& query : queries) {
    results.qparams.push_back(CalibctlOk(address, Join({"--json", "qparams", session}, query)));
  }
  results.statistics = AllStatistics(address, session);
  return results;
}

void ExpectEqual(const Results& actual, const Results& expected) {
  EXPECT_EQ(actual.qparams, expected.qparams);
  EXPECT_TRUE(actual.statistics == expected.statistics) << "the histograms differ";
}

// One worker, observed by the client, in order, without interruption.
Results Reference(const std::string& address, const std::vector<std::string>& create,
                  const std::vector<std::vector<std::string>>& queries, const std::vector<std::string>& layers) {
  CalibctlOk(address, Join({"session", "create", "golden"}, create));
  CalibctlOk(address, Join({"push", "golden"}, layers));
  Results results = Collect(address, "golden", queries);
  CalibctlOk(address, {"session", "delete", "golden"});
  return results;
}

// Pushes through a proxy that cuts every connection again and again, each time once so many bytes went to the server.
// Returns how often workers reconnected.
uint64_t PushThroughCuts(const Server& server, const std::vector<std::string>& arguments, uint64_t cut_bytes) {
  TcpProxy proxy(std::stoi(server.address().substr(server.address().rfind(':') + 1)));
  proxy.CutAfter(cut_bytes);
  Process push(CalibctlCommand(proxy.address(), Join({"--json", "push", "golden"}, arguments)));
  for (int connections = proxy.connections(); push.running();) {
    // After new connections, the next cut: a little later each time, so that there is an end.
    if (proxy.connections() == connections) {
      push.WaitForOutput("\n", absl::Milliseconds(2));
      continue;
    }
    connections = proxy.connections();
    cut_bytes += cut_bytes / 2;
    proxy.CutAfter(cut_bytes);
  }
  const ProcessResult result = push.Wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json.at("reconnections").get<uint64_t>() : 0;
}

struct Fleet {
  int workers;
  bool raw;
  bool shuffled;
};

std::vector<std::string> PushOptions(const Fleet& fleet) {
  std::vector<std::string> options = {"--ranks", std::to_string(fleet.workers)};
  if (fleet.raw) options.push_back("--raw");
  if (fleet.shuffled) options = Join(options, {"--shuffle", std::to_string(fleet.workers)});
  return options;
}

class ExactnessTest : public testing::TestWithParam<std::tuple<int, bool, bool>> {
 protected:
  Fleet fleet() const { return {std::get<0>(GetParam()), std::get<1>(GetParam()), std::get<2>(GetParam())}; }
  Server server_;
};

TEST_P(ExactnessTest, GoldenLayersThroughCutConnections) {
  const Results expected = Reference(server_.address(), {}, Queries(), GoldenArguments());
  ASSERT_EQ(Json::parse(expected.qparams[0]).at("layers").size(), 18u);

  CalibctlOk(server_.address(), {"session", "create", "golden"});
  const uint64_t reconnections =
      PushThroughCuts(server_, Join(PushOptions(fleet()), GoldenArguments()), fleet().raw ? 300000 : 6000);
  EXPECT_GE(reconnections, 1u);
  ExpectEqual(Collect(server_.address(), "golden", Queries()), expected);
}

INSTANTIATE_TEST_SUITE_P(Fleets, ExactnessTest,
                         testing::Combine(testing::Values(1, 2, 4, 7), testing::Bool(), testing::Bool()),
                         [](const testing::TestParamInfo<std::tuple<int, bool, bool>>& info) {
                           return std::to_string(std::get<0>(info.param)) + "Workers" +
                                  (std::get<1>(info.param) ? "Raw" : "Observed") +
                                  (std::get<2>(info.param) ? "Shuffled" : "InOrder");
                         });

// Axis 0 is the one that steps are split along, -1 the fastest, 1 the channels of the convolutions.
class PerChannelTest : public testing::TestWithParam<const char*> {};

TEST_P(PerChannelTest, ChannelsStayWholeHoweverStepsAreSplit) {
  const Server server;
  const std::vector<std::string> create = {"--channel-axis", GetParam(), "--mantissa-bits", "5"};
  const std::vector<std::vector<std::string>> queries = {
      {"--per-channel"}, {"--method", "mse", "--per-channel"}, {"--affine"}};
  std::vector<std::string> layers;
  for (const char* layer : {"conv1", "conv2", "fc1", "logits"})
    layers.push_back(std::string(layer) + "=" + GoldenFile(layer));
  const Results expected = Reference(server.address(), create, queries, layers);
  const Json conv1 = Json::parse(expected.qparams[0]).at("layers")[0];
  const std::map<std::string, size_t> channels = {{"0", 32}, {"1", 16}, {"-1", 8}};
  ASSERT_EQ(conv1.at("scale").size(), channels.at(GetParam()));
  for (const Fleet& fleet : {Fleet{3, false, true}, Fleet{7, true, false}}) {
    SCOPED_TRACE(std::to_string(fleet.workers) + " workers");
    CalibctlOk(server.address(), Join({"session", "create", "golden"}, create));
    PushThroughCuts(server, Join(PushOptions(fleet), layers), 50000);
    ExpectEqual(Collect(server.address(), "golden", queries), expected);
    CalibctlOk(server.address(), {"session", "delete", "golden"});
  }
}

INSTANTIATE_TEST_SUITE_P(Axes, PerChannelTest, testing::Values("0", "1", "-1"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param[0] == '-' ? "Last" : "Axis") +
                                  info.param[std::strlen(info.param) - 1];
                         });

// A file with one axis is one step; float16 values are the float32 values that they equal.
TEST(PushFormsTest, OneAxisAndFloat16) {
  const Server server;
  const TemporaryFolder folder;
  CalibctlOk(server.address(), {"session", "create", "forms"});
  // 1, -2, 65504 and infinity as binary16.
  const std::string halves =
      folder.Write("h.npy", NpyText("<f2", "(4,)", std::string("\x00\x3c\x00\xc0\xff\x7b\x00\x7c", 8)));
  const std::string scalar = folder.Write("s.npy", NpyText("<f4", "()", FloatBytes({2.5f})));
  const Json pushed =
      CalibctlJson(server.address(), {"push", "forms", "half=" + halves, "scalar=" + scalar, "--ranks", "3"});
  EXPECT_EQ(pushed.at("steps"), 2);
  EXPECT_EQ(pushed.at("values"), 5);
  EXPECT_EQ(pushed.at("bytes"), 12);
  const Json layers = CalibctlJson(server.address(), {"qparams", "forms"}).at("layers");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].at("min"), -2.0);
  EXPECT_EQ(layers[0].at("max"), 65504.0);
  EXPECT_EQ(layers[0].at("count"), 3);
  EXPECT_EQ(layers[0].at("inf"), 1);
  EXPECT_EQ(layers[1].at("max"), 2.5);
}

}  // namespace
}  // namespace calib::test
