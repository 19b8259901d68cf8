// Streams, queries, checkpoints, reconnections and deletions at once: chiefly for ThreadSanitizer.

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

class ConcurrencyTest : public EngineFixture {};

TEST_F(ConcurrencyTest, StreamsQueriesAndCheckpoints) {
  constexpr int kWorkers = 4;
  constexpr uint64_t kUnits = 60;
  options_.checkpoint_interval = absl::Milliseconds(1);
  options_.checkpoint_bytes = 1 << 12;
  Start();
  const auto session = CreateSession();
  std::atomic<int> running{kWorkers};

  std::vector<std::thread> threads;
  for (int w = 0; w < kWorkers; ++w) {
    threads.emplace_back([&, w] {
      const std::string id = absl::StrCat("w", w);
      const std::vector<float> values = {static_cast<float>(w), -1.5f, 1e3f};
      TestStream stream = Open(id);
      for (uint64_t unit = 1; unit <= kUnits; ++unit) {
        if (unit % 20 == 0) stream = Open(id);
        const absl::Status status =
            unit % 2 == 0
                ? stream.Send(TensorRequest(unit, unit, 0, values, {3}))
                : stream.Send(StatisticsRequest(
                      unit, unit, {{0, Observe(kHistogramConfig, values)}, {1, Observe(kMinMaxConfig, values)}}));
        EXPECT_TRUE(status.ok()) << status;
      }
      Event durable;
      stream.stream->WhenDurable([&](const absl::StatusOr<uint64_t>& updates) {
        EXPECT_TRUE(updates.ok()) << updates.status();
        durable.Set();
      });
      EXPECT_TRUE(durable.Wait());
      EXPECT_EQ(stream.stream->ack().durable(), kUnits);
      --running;
    });
  }
  threads.emplace_back([&] {
    uint64_t version = 0;
    while (running > 0) {
      for (const std::string& name : session->ListLayers("*", "", 10, version)) {
        const auto layer = session->GetLayer(name);
        ASSERT_TRUE(layer.ok());
        // Every update is whole: each has a multiple of 3 values.
        EXPECT_EQ(layer->statistics.channels().at(0).range.count % 3, 0u);
      }
      for (const Session::WorkerSummary& worker : session->GetWorkers())
        EXPECT_LE(worker.durable, worker.record.applied);
      version = session->GetSummary().version;
    }
  });
  threads.emplace_back([&] {
    while (running > 0) EXPECT_TRUE(engine_->Checkpoint().ok());
  });
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(session->GetSummary().record.updates_applied, kWorkers * kUnits);
  EXPECT_EQ(session->GetLayer("h")->statistics.channels().at(0).range.count, kWorkers * kUnits * 3);
  EXPECT_EQ(session->GetLayer("h")->workers, static_cast<uint64_t>(kWorkers));
  EXPECT_EQ(engine_->counters().streams, 0);
}

TEST_F(ConcurrencyTest, DeletionDuringTraffic) {
  options_.checkpoint_interval = absl::Milliseconds(1);
  Start();
  for (int round = 0; round < 20; ++round) {
    CreateSession();
    std::vector<std::thread> threads;
    std::vector<std::shared_ptr<TestListener>> listeners(3);
    Event flowing;
    for (int w = 0; w < 3; ++w) {
      threads.emplace_back([&, w] {
        TestStream stream = Open(absl::StrCat("w", w));
        listeners[w] = stream.listener;
        absl::Status status;
        for (uint64_t unit = 1; status.ok(); ++unit) {
          status = stream.Send(StatisticsRequest(unit, unit, {{0, Observe(kHistogramConfig, {1.0f})}}));
          if (w == 2 && unit == 3) flowing.Set();
        }
        EXPECT_EQ(GetReason(status), v1::ERROR_REASON_SESSION_DELETED) << status;
      });
    }
    EXPECT_TRUE(flowing.Wait());
    // A worker that has not opened yet would find no session: wait for all.
    while ((*engine_->FindSession("s"))->GetSummary().worker_count < 3) std::this_thread::yield();
    EXPECT_TRUE(engine_->DeleteSession("s").ok());
    for (std::thread& thread : threads) thread.join();
    for (const auto& listener : listeners) {
      EXPECT_EQ(GetReason(listener->end_status()), v1::ERROR_REASON_SESSION_DELETED);
    }
    EXPECT_TRUE(engine_->Checkpoint().ok());
    EXPECT_EQ(store_.memory().Load()->size(), 0u);
    EXPECT_EQ(engine_->counters().state_bytes, 0);
    EXPECT_EQ(engine_->counters().layers, 0);
  }
}

// Two processes with one worker id: whoever opened last wins, and every unit counts once.
TEST_F(ConcurrencyTest, FencedTwins) {
  Start();
  const auto session = CreateSession();
  const auto run = [&] {
    for (int i = 0; i < 50; ++i) {
      TestStream stream = Open("twin");
      uint64_t unit = stream.stream->welcome().applied();
      absl::Status status;
      for (int j = 0; j < 3 && status.ok(); ++j) {
        ++unit;
        status = stream.Send(StatisticsRequest(unit, unit, {{1, Observe(kMinMaxConfig, {1.0f})}}));
      }
      EXPECT_TRUE(status.ok() || GetReason(status) == v1::ERROR_REASON_WORKER_FENCED) << status;
    }
  };
  std::thread a(run), b(run);
  a.join();
  b.join();
  const uint64_t applied = session->GetWorkers().at(0).record.applied;
  EXPECT_EQ(session->GetSummary().record.updates_applied, applied);
  EXPECT_EQ(session->GetLayer("minmax")->statistics.channels().at(0).range.count, applied);
}

}  // namespace
}  // namespace calib::server::test
