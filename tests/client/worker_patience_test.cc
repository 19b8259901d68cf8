// What a worker waits for: other threads' data when it closes, and room on a full server.

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

}  // namespace
}  // namespace calib::client
