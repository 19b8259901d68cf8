// What a worker waits for: other threads' data when it closes, room on a full server, and checkpoints.

#include <atomic>
#include <string>
#include <thread>

#include "client/cpp/worker.h"
#include "tests/client/client_fixture.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using WorkerPatienceTest = ClientFixture;

TEST_F(WorkerPatienceTest, CloseTakesWhatOtherThreadsObservedBeforeIt) {
  CreateSession("s");
  uint64_t taken = 0;
  for (int run = 0; run < 20; ++run) {
    const auto worker = OpenWorker(FastWorker("s"));
    std::atomic<uint64_t> observed = 0;
    std::thread other([&] {
      while (worker->Observe("a", Vector({1}).view()).ok()) ++observed;
    });
    while (observed == 0) std::this_thread::yield();
    EXPECT_TRUE(worker->Close(kLong).ok());
    other.join();
    taken += observed;
  }
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(taken));
}

TEST_F(WorkerPatienceTest, EndsWhileTheServerIsAway) {
  CreateSession("s");
  const auto away = [&] {
    proxy_->SetAway(true);
    for (const int seen = proxy_->refusals(); proxy_->refusals() == seen;) std::this_thread::yield();
  };
  // Everything is durable: nothing is left to wait for.
  auto worker = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  away();
  EXPECT_TRUE(worker->Close(kLong).ok());
  worker.reset();
  // Something isn't: that is lost with the worker, whose end does not wait for the server either.
  proxy_->SetAway(false);
  worker = OpenWorker(FastWorker("s"));
  away();
  ASSERT_TRUE(worker->Observe("a", Vector({2}).view()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(worker->Close(absl::Milliseconds(1))));
  worker.reset();
  // One that waits goes on when the server is back.
  proxy_->SetAway(false);
  worker = OpenWorker(FastWorker("s"));
  away();
  ASSERT_TRUE(worker->Observe("a", Vector({3}).view()).ok());
  proxy_->SetAway(false);
  EXPECT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(2));
}

TEST_F(WorkerPatienceTest, AFullServerIsWaitedFor) {
  server_options_.engine.limits.max_state_bytes = 1;  // one layer, whatever its size
  RestartServer();
  CreateSession("full");
  CreateSession("s");
  const auto first = OpenWorker(FastWorker("full"));
  ASSERT_TRUE(first->Observe("a", Vector({1}).view()).ok());
  ASSERT_TRUE(first->Close(kLong).ok());

  const auto second = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(second->Observe("a", Vector({1, 2, 3}).view()).ok());
  const absl::Status full = second->Flush(absl::Milliseconds(200));
  EXPECT_TRUE(absl::IsDeadlineExceeded(full)) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("--max-state-bytes"));
  v1::DeleteSessionRequest request;
  request.set_session("full");
  ASSERT_TRUE(client_->DeleteSession(request).ok());
  const absl::Status freed = second->Close(kLong);
  EXPECT_TRUE(freed.ok()) << freed;
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(3));
}

TEST_F(WorkerPatienceTest, FlushIsNotHeldUpByRoundsThatWaitForACheckpoint) {
  server_options_.engine.checkpoint_interval = absl::Hours(1);
  RestartServer();
  CreateSession("s");
  const WorkerOptions options = FastWorker("s");
  const auto worker = OpenWorker(options);
  for (int round = 1; round <= options.updates_in_flight; ++round) {
    ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok());
    WaitUntilApplied("s", round);
  }
  ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok());
  const absl::Status flushed = worker->Flush(kLong);
  EXPECT_TRUE(flushed.ok()) << flushed;
  EXPECT_EQ(worker->stats().durable, options.updates_in_flight + 1u);
  EXPECT_TRUE(worker->Close(kLong).ok());
}

TEST_F(WorkerPatienceTest, StepsPastTheWindowAskForACheckpoint) {
  server_options_.engine.checkpoint_interval = absl::Hours(1);
  RestartServer();
  v1::SessionConfig config;
  v1::LayerRule* const rule = config.add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_REFERENCE_HISTOGRAM);
  rule->mutable_observer()->mutable_reference_histogram()->set_rule(v1::REFERENCE_RULE_PYTORCH);
  rule->mutable_observer()->mutable_reference_histogram()->set_bins(2048);
  CreateSession("s", config);
  WorkerOptions options = FastWorker("s");
  options.raw_window_bytes = 1 << 20;
  const auto worker = OpenWorker(options);
  // At 8 bytes a count, 64 such steps fill the window.
  for (int step = 0; step < 100; ++step) ASSERT_TRUE(worker->Observe("a", Vector({1, 2, 3}).view()).ok());
  EXPECT_GT(worker->stats().durable, 0u);
  EXPECT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(300));
}

}  // namespace
}  // namespace calib::client
