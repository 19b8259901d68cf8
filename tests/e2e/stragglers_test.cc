// Synchronous steps that lack a rank, seen from outside: who is missing is told, and what becomes of the step is the
// session's policy.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/sync_worker.h"
#include "proto/codec/error.h"
#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

using testing::HasSubstr;

class StragglersTest : public testing::Test {
 protected:
  void Create(const std::vector<std::string>& options) {
    CalibctlOk(server_.address(), Join({"session", "create", "s", "--observer", "ema", "--world-size", "3"}, options));
  }

  std::unique_ptr<Process> StartRank(int rank, const std::vector<std::string>& options = {}) {
    const std::vector<std::string> push = {
        "--json", "push", "s", "conv1=" + GoldenFile("conv1"), "--sync", "--rank", std::to_string(rank)};
    return std::make_unique<Process>(CalibctlCommand(server_.address(), Join(options, push)));
  }

  Json Status() { return CalibctlJson(server_.address(), {"session", "show", "s"}).at("synchronous"); }

  Server server_{{"--drain-timeout", "10s"}};
};

TEST_F(StragglersTest, WaitHoldsTheStepAndNamesWhoIsMissing) {
  Create({"--straggler", "wait"});
  Process watch(CalibctlCommand(server_.address(), {"--json", "watch", "s", "--interval", "0.05"}));
  const auto first = StartRank(0), third = StartRank(2);
  ASSERT_TRUE(watch.WaitForOutput("\"missing_rank\":[1],"));
  const Json status = Status();
  EXPECT_EQ(status.at("folded_step"), 0);
  EXPECT_EQ(status.at("open_steps"), 1);
  EXPECT_EQ(status.at("missing_rank"), Json({1}));
  EXPECT_EQ(status.at("missing_ranks"), 1);
  // It is held for as long as it takes.
  const uint64_t waited = status.at("open_for_ms");
  while (Status().at("open_for_ms").get<uint64_t>() < waited + 500) ASSERT_TRUE(first->running());
  EXPECT_EQ(Status().at("folded_step"), 0);
  const auto second = StartRank(1);
  for (Process* const rank : {first.get(), second.get(), third.get()}) {
    const ProcessResult result = rank->Wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  EXPECT_EQ(Status().at("folded_step"), 6);
  EXPECT_EQ(Status().at("failed_steps"), 0);
  EXPECT_TRUE(watch.WaitForOutput("\"folded_step\":6,"));
}

TEST_F(StragglersTest, ARankThatIsAwaitedForTooLongIsNamed) {
  Create({});
  const ProcessResult result = StartRank(1, {"--timeout", "1"})->Wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("waiting for ranks 0, 2"));
  EXPECT_THAT(result.err, HasSubstr("step 1"));
}

TEST_F(StragglersTest, FailTellsAllWhoIsMissing) {
  Create({"--straggler", "fail", "--step-deadline", "300ms"});
  client::ClientOptions options;
  options.server = server_.address();
  const auto client = std::make_shared<client::Client>(options);
  const std::vector<float> values = {1, 2};
  const std::vector<uint64_t> shape = {2};
  TensorView tensor{.shape = shape};
  tensor.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), 2 * sizeof(float));
  const std::vector<client::StepLayer> layers = {{"conv1", tensor}};
  std::vector<std::unique_ptr<client::SyncWorker>> workers;
  std::vector<client::PendingStep> pending;
  for (const uint32_t rank : {0u, 2u}) {
    client::SyncWorkerOptions worker;
    worker.session = "s";
    worker.rank = rank;
    auto opened = client::SyncWorker::Open(client, worker);
    ASSERT_TRUE(opened.ok()) << opened.status();
    workers.push_back(*std::move(opened));
    auto started = workers.back()->StartStep(layers);
    ASSERT_TRUE(started.ok()) << started.status();
    pending.push_back(*std::move(started));
  }
  for (client::PendingStep& step : pending) {
    const auto result = step.Wait(absl::Now() + absl::Seconds(30));
    EXPECT_EQ(GetReason(result.status()), v1::ERROR_REASON_STEP_TIMED_OUT) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("rank 1 of 3 did not contribute within 300ms"));
  }
  EXPECT_EQ(Status().at("failed_steps"), 1);
  EXPECT_EQ(Status().at("open_steps"), 0);
}

TEST_F(StragglersTest, FailEndsTheStepForAll) {
  Create({"--straggler", "fail", "--step-deadline", "2s"});
  const auto first = StartRank(0), third = StartRank(2);
  for (Process* const rank : {first.get(), third.get()}) {
    const ProcessResult result = rank->Wait(absl::Seconds(30));
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr("step 1 failed: rank 1 of 3 did not contribute within 2s"));
    EXPECT_THAT(result.err, HasSubstr("STEP_TIMED_OUT"));
  }
  EXPECT_EQ(Status().at("open_steps"), 0);
  EXPECT_EQ(Status().at("folded_step"), 0);
  EXPECT_EQ(Status().at("failed_steps"), 1);
  // Nothing of it was counted: all together begin at the first step.
  CalibctlOk(server_.address(), {"push", "s", "conv1=" + GoldenFile("conv1"), "--sync"});
  EXPECT_EQ(Status().at("folded_step"), 6);
}

TEST_F(StragglersTest, ClosePartialGoesOnAndCounts) {
  Create({"--straggler", "close_partial", "--step-deadline", "300ms"});
  const auto first = StartRank(0), third = StartRank(2);
  for (Process* const rank : {first.get(), third.get()}) {
    const ProcessResult result = rank->Wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  const Json status = Status();
  EXPECT_EQ(status.at("folded_step"), 6);
  EXPECT_EQ(status.at("partial_steps"), 6);
  EXPECT_EQ(status.at("failed_steps"), 0);
  const Json qparams = CalibctlJson(server_.address(), {"qparams", "s"}).at("layers")[0];
  // The middle rank's 11 of 32 images are missing, in each of 6 steps of 16 x 8 x 8 values an image.
  EXPECT_EQ(qparams.at("count"), 6 * 21 * 16 * 8 * 8);
}

TEST_F(StragglersTest, TheServerEndsInTimeWhileStepsAreOpen) {
  Create({});
  const auto first = StartRank(0, {"--timeout", "2"});
  while (Status().at("open_steps") == 0) ASSERT_TRUE(first->running());
  server_.process().Signal(SIGTERM);
  const ProcessResult stopped = server_.process().Wait(absl::Seconds(15));
  EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
  const ProcessResult rank = first->Wait();
  EXPECT_EQ(rank.exit_code, 1);
  EXPECT_THAT(rank.err, HasSubstr(server_.address()));
}

}  // namespace
}  // namespace calib::test
