// Synchronous steps: ranks as processes give exactly what MegEngine's Sync observers computed with four ranks, in
// whatever order they come, and killed and started again on the way.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/cpp/client.h"
#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

constexpr int kRanks = 4;
constexpr int kGoldenSteps = 6;

// As expected.json names and defines them: four ranks, each step split along its first axis.
struct SyncObserver {
  const char* name;      // key of expected.json
  const char* observer;  // option of session create
};

constexpr SyncObserver kSyncMinMax = {"SyncMinMaxObserver/quint8/asymmetric", "minmax"};
constexpr SyncObserver kSyncEma = {"SyncExponentialMovingAverageObserver/quint8/asymmetric", "ema"};

class SyncGoldenTest : public testing::TestWithParam<SyncObserver> {
 protected:
  void Create(const std::vector<std::string>& options = {}) {
    CalibctlOk(server_.address(), Join({"session", "create", "golden", "--observer", GetParam().observer,
                                        "--world-size", std::to_string(kRanks)},
                                       options));
  }

  std::unique_ptr<Process> StartRank(int rank) {
    const std::vector<std::string> options = {
        "--json", "push", "golden", "--sync", "--ranks", std::to_string(kRanks), "--rank", std::to_string(rank)};
    return std::make_unique<Process>(CalibctlCommand(server_.address(), Join(options, GoldenArguments())));
  }

  // The session's state of synchronous steps.
  Json Status() { return CalibctlJson(server_.address(), {"session", "show", "golden"}).at("synchronous"); }

  static void ExpectPushed(Process* rank) {
    const ProcessResult result = rank->Wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }

  // Every golden layer, to the bit: the extremes that the observer holds, and the parameters made of them.
  void ExpectGolden() {
    const std::map<std::string, std::pair<float, float>> held = HeldRanges();
    ASSERT_EQ(held.size(), GoldenLayers().size());
    const Json answer = CalibctlJson(server_.address(), {"qparams", "golden", "--preset", "megengine", "--dtype",
                                                         "uint8", "--affine", "--method", "minmax"});
    ASSERT_EQ(answer.at("layers").size(), GoldenLayers().size());
    for (const Json& layer : answer.at("layers")) {
      const std::string name = layer.at("layer");
      SCOPED_TRACE(name);
      const Json& expected = GoldenExpected().at(name).at("megengine").at(GetParam().name);
      EXPECT_EQ(held.at(name), std::pair(Float(expected.at("min")), Float(expected.at("max"))));
      ASSERT_TRUE(layer.contains("scale")) << layer;
      EXPECT_EQ(Float(layer.at("scale").at(0)), Float(expected.at("scale")));
      EXPECT_EQ(layer.at("zero_point").at(0).get<double>(), expected.at("zero_point").get<double>());
    }
    const Json status = Status();
    EXPECT_EQ(status.at("folded_step"), kGoldenSteps);
    EXPECT_EQ(status.at("durable_step"), kGoldenSteps);
    for (const char* count : {"partial_steps", "failed_steps", "late_contributions"}) {
      EXPECT_EQ(status.at(count), 0) << count;
    }
  }

  // By layer.
  std::map<std::string, std::pair<float, float>> HeldRanges() {
    client::ClientOptions options;
    options.server = server_.address();
    v1::GetStatisticsRequest request;
    request.set_session("golden");
    const auto response = client::Client(options).GetStatistics(request);
    std::map<std::string, std::pair<float, float>> ranges;
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) return ranges;
    const v1::StatisticsBatch& rows = response->statistics();
    for (int i = 0; i < response->layer_size(); ++i) {
      ranges[response->layer(i)] =
          rows.ema_size() > 0 ? std::pair(rows.ema(i).min(), rows.ema(i).max()) : std::pair(rows.min(i), rows.max(i));
    }
    return ranges;
  }

  static float Float(const Json& number) { return static_cast<float>(number.get<double>()); }

  Server server_;
};

// Ranks start in every order; each but the last has to wait for the others, and the first one is stopped while they
// come.
TEST_P(SyncGoldenTest, RanksComeInAnyOrder) {
  std::vector<int> order = {0, 1, 2, 3};
  std::mt19937 rng(7);
  for (int round = 0; round < 4; ++round) {
    std::shuffle(order.begin(), order.end(), rng);
    SCOPED_TRACE("first rank " + std::to_string(order[0]));
    Create();
    std::vector<std::unique_ptr<Process>> ranks;
    ranks.push_back(StartRank(order[0]));
    while (Status().at("open_steps") == 0) ASSERT_TRUE(ranks[0]->running());
    ranks[0]->Signal(SIGSTOP);
    for (int i = 1; i < kRanks; ++i) ranks.push_back(StartRank(order[i]));
    // It gave its part of the first step before it was stopped: the others get as far as the second.
    while (Status().at("folded_step") == 0 || Status().at("missing_rank") != Json({order[0]})) {
      for (const auto& rank : ranks) ASSERT_TRUE(rank->running());
    }
    EXPECT_EQ(Status().at("folded_step"), 1);
    ranks[0]->Signal(SIGCONT);
    for (const auto& rank : ranks) ExpectPushed(rank.get());
    ExpectGolden();
    CalibctlOk(server_.address(), {"session", "delete", "golden"});
  }
}

// Again and again a rank is killed that has given its part of a step, and one that may have or not; started again, they
// go on.
TEST_P(SyncGoldenTest, RanksAreKilledAndStartedAgain) {
  Create();
  std::vector<std::unique_ptr<Process>> ranks;
  for (int rank = 0; rank < 3; ++rank) ranks.push_back(StartRank(rank));
  std::unique_ptr<Process> last;
  int rounds = 0;
  for (uint64_t folded = 0; folded < kGoldenSteps; folded = Status().at("folded_step")) {
    if (Status().at("missing_rank") != Json({3})) continue;
    Process* const stopped = ranks[(rounds + 1) % 3].get();
    std::unique_ptr<Process>& killed = ranks[rounds % 3];
    ++rounds;
    killed->Signal(SIGKILL);
    EXPECT_EQ(killed->Wait().exit_code, 128 + SIGKILL);
    killed = StartRank((rounds - 1) % 3);
    // While one rank stands still, the last one gets one step on and no further.
    stopped->Signal(SIGSTOP);
    last = StartRank(3);
    while (Status().at("folded_step") == folded) ASSERT_TRUE(last->running()) << last->Wait().err;
    last->Signal(SIGKILL);
    last->Wait();
    stopped->Signal(SIGCONT);
  }
  EXPECT_GE(rounds, kGoldenSteps / 2);
  ranks.push_back(StartRank(3));
  for (const auto& rank : ranks) ExpectPushed(rank.get());
  ExpectGolden();
}

INSTANTIATE_TEST_SUITE_P(Observers, SyncGoldenTest, testing::Values(kSyncMinMax, kSyncEma),
                         [](const testing::TestParamInfo<SyncObserver>& info) {
                           return std::string(info.param.observer) == "ema" ? "ExponentialMovingAverage" : "MinMax";
                         });

}  // namespace
}  // namespace calib::test
