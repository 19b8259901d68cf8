// Ranks of synchronous steps against a server: whatever happens on the way, every step has every rank once.
#include "client/cpp/sync_worker.h"

#include <optional>
#include <stop_token>

#include "tests/client/sync_fixture.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SyncWorkerTest : public SyncFixture {};

TEST_F(SyncWorkerTest, RanksTogetherGiveWhatOneGives) {
  constexpr uint32_t kRanks = 4;
  constexpr uint64_t kSteps = 12;
  CreateSyncSession("s", kRanks);
  Together(kRanks, [&](uint32_t rank) {
    const auto worker = OpenRank("s", rank);
    EXPECT_EQ(worker->next_step(), 1u);
    EXPECT_EQ(worker->world(), (StepWorld{1, kRanks}));
    RunRank(worker.get(), kRanks, rank, 1, kSteps);
    const absl::Status closed = worker->Close(kLong);
    EXPECT_TRUE(closed.ok()) << closed;
    EXPECT_EQ(worker->stats().steps_answered, kSteps);
    EXPECT_EQ(worker->stats().kept_bytes, 0u);
    EXPECT_GE(worker->stats().durable_step, kSteps);
  });
  EXPECT_EQ(Statistics("s").SerializeAsString(), ExpectedStatistics(kSteps));
}

TEST_F(SyncWorkerTest, ResultsAreWhatAllRanksGaveInTheCallersOrder) {
  CreateSyncSession("s", 2);
  const std::vector<Tensor> tensors = {Vector({1, 2}), Vector({-4, 8}), Vector({5}), Tensor{{1, 2}, {3, -7}}};
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  // Layers that the session does not take lie between, and "mxnet" has a greater handle than what comes after it next.
  const std::vector<std::string> names = {"ema", "debug.x", "a", "channels", "mxnet"};
  const auto layers = [&](std::vector<const Tensor*> of) {
    std::vector<StepLayer> given;
    for (size_t i = 0; i < of.size(); ++i) given.push_back({names[i], of[i]->view()});
    return given;
  };
  const std::vector<StepLayer> of_first = layers({&tensors[0], &tensors[0], &tensors[0], &tensors[3], &tensors[2]});
  std::vector<StepLayer> of_second = layers({&tensors[1], &tensors[0], &tensors[2], &tensors[3], &tensors[2]});
  std::reverse(of_second.begin(), of_second.end());
  auto pending = first->StartStep(of_first);
  ASSERT_TRUE(pending.ok()) << pending.status();
  EXPECT_EQ(pending->step(), 1u);
  EXPECT_FALSE(pending->ready());
  const auto reversed = second->Step(of_second);
  ASSERT_TRUE(reversed.ok()) << reversed.status();
  const auto result = pending->Wait(absl::Now() + kLong);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(pending->ready());
  for (const StepResult& answer : {*result, *reversed}) {
    EXPECT_EQ(answer.world_epoch, 1u);
    EXPECT_EQ(answer.world_size, 2u);
    EXPECT_TRUE(answer.counted);
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const StepLayerResult& layer = result->layers[i];
    const StepLayerResult& same = reversed->layers[names.size() - 1 - i];
    EXPECT_EQ(layer.step_min, same.step_min) << names[i];
    EXPECT_EQ(layer.scale, same.scale) << names[i];
    EXPECT_EQ(layer.max, same.max) << names[i];
  }
  EXPECT_THAT(result->layers[0].step_min, ElementsAre(-4));
  EXPECT_THAT(result->layers[0].step_max, ElementsAre(8));
  EXPECT_THAT(result->layers[1].step_min, IsEmpty());
  EXPECT_THAT(result->layers[1].scale, IsEmpty());
  EXPECT_THAT(result->layers[2].step_max, ElementsAre(5));
  EXPECT_THAT(result->layers[3].step_min, ElementsAre(3, -7));
  EXPECT_THAT(result->layers[3].max, ElementsAre(3, -7));
  ASSERT_EQ(result->layers[4].scale.size(), 1u);
  EXPECT_GT(result->layers[4].scale[0], 0);
}

TEST_F(SyncWorkerTest, CutConnectionsChangeNothing) {
  constexpr uint32_t kRanks = 3;
  constexpr uint64_t kSteps = 40;
  CreateSyncSession("s", kRanks);
  std::atomic<uint64_t> reconnections = 0;
  Together(kRanks, [&](uint32_t rank) {
    const auto worker = OpenRank("s", rank);
    test::Rng rng(rank);
    for (uint64_t step = 1; step <= kSteps; ++step) {
      // Anywhere in what follows: in an Open, a registration, a contribution, counts.
      if (rank == 0) proxy_->CutAfter(rng() % 3000);
      RunRank(worker.get(), kRanks, rank, step, step);
    }
    const absl::Status closed = worker->Close(kLong);
    EXPECT_TRUE(closed.ok()) << closed;
    reconnections += worker->stats().reconnections;
  });
  EXPECT_GT(reconnections, 5u);
  proxy_->CutAfter(std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(Statistics("s").SerializeAsString(), ExpectedStatistics(kSteps));
}

TEST_F(SyncWorkerTest, RestartedServersLoseNothing) {
  // Nothing becomes durable without being asked for, so there is more to repeat than a window.
  server_options_.engine.checkpoint_interval = absl::InfiniteDuration();
  RestartServer();
  constexpr uint32_t kRanks = 2;
  constexpr uint64_t kSteps = 9;
  CreateSyncSession("s", kRanks, /*window=*/2);
  std::vector<std::unique_ptr<SyncWorker>> workers;
  for (uint32_t rank = 0; rank < kRanks; ++rank) workers.push_back(OpenRank("s", rank));
  for (uint64_t step = 1; step <= kSteps; step += 3) {
    Together(kRanks, [&](uint32_t rank) { RunRank(workers[rank].get(), kRanks, rank, step, step + 2); });
    RestartServer();
  }
  for (const auto& worker : workers) {
    EXPECT_EQ(worker->next_step(), kSteps + 1);
    const absl::Status flushed = worker->Flush(kLong);
    ASSERT_TRUE(flushed.ok()) << flushed;
  }
  for (const auto& worker : workers) EXPECT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(Statistics("s").SerializeAsString(), ExpectedStatistics(kSteps));
}

TEST_F(SyncWorkerTest, DrainingServersLoseNothing) {
  CreateSyncSession("s", 1);
  const auto worker = OpenRank("s", 0);
  for (uint64_t step = 1; step <= 3; ++step) {
    RunRank(worker.get(), 1, 0, step, step);
    ASSERT_TRUE(server_->Stop(kLong).ok());
    RestartServer();
  }
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(Session("s").session().synchronous().folded_step(), 3u);
}

TEST_F(SyncWorkerTest, AProcessThatIsStartedAgainGoesOn) {
  constexpr uint32_t kRanks = 2;
  CreateSyncSession("s", kRanks);
  for (uint64_t run = 0; run < 3; ++run) {
    Together(kRanks, [&](uint32_t rank) {
      const auto worker = OpenRank("s", rank);
      EXPECT_EQ(worker->next_step(), 2 * run + 1);
      EXPECT_EQ(worker->stats().durable_step, 2 * run);
      RunRank(worker.get(), kRanks, rank, 2 * run + 1, 2 * run + 2);
      // Others close when they will; nobody is lost with the worker.
      if (run < 2) return;
      EXPECT_TRUE(worker->Close(kLong).ok());
    });
  }
  EXPECT_EQ(Statistics("s").SerializeAsString(), ExpectedStatistics(6));
}

TEST_F(SyncWorkerTest, ARankThatRepeatsAStepIsAnsweredAndNotCounted) {
  CreateSyncSession("s", 2);
  const auto other = OpenRank("s", 1);
  const Tensor tensor = Vector({1, 2});
  const std::vector<StepLayer> layers = {{"a", tensor.view()}};
  auto of_other = other->StartStep(layers);
  ASSERT_TRUE(of_other.ok());
  {
    const auto dies = OpenRank("s", 0);
    ASSERT_TRUE(dies->Step(layers, AtStep(1)).ok());
  }
  ASSERT_TRUE(of_other->Wait(absl::Now() + kLong).ok());
  const auto again = OpenRank("s", 0);
  EXPECT_EQ(again->next_step(), 2u);
  const auto repeated = again->Step(layers, AtStep(1));
  ASSERT_TRUE(repeated.ok()) << repeated.status();
  EXPECT_EQ(repeated->step, 1u);
  EXPECT_THAT(repeated->layers[0].step_max, ElementsAre(2));
  EXPECT_EQ(again->next_step(), 2u);
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(4));
  EXPECT_GE(Session("s").session().synchronous().repeated_contributions(), 1u);
}

TEST_F(SyncWorkerTest, GradientsTeachLearnedLayers) {
  CreateSyncSession("s", 2);
  const Tensor tensor = Vector({-1, 0.5f, 2});
  const std::vector<StepLayer> values = {{"a", tensor.view()}, {"learned", tensor.view()}};
  const std::vector<double> gradient = {0.25};
  const std::vector<StepLayer> gradients = {{"learned", StepGradients{gradient, {}, 3}}, {"a", tensor.view()}};
  Together(2, [&](uint32_t rank) {
    const auto worker = OpenRank("s", rank);
    const auto early = worker->Step(gradients, AtStep(1));
    EXPECT_EQ(GetReason(early.status()), v1::ERROR_REASON_LEARNED_NOT_INITIALIZED) << early.status();
    EXPECT_EQ(worker->next_step(), 1u);
    const auto initial = worker->Step(values, AtStep(1));
    ASSERT_TRUE(initial.ok()) << initial.status();
    ASSERT_EQ(initial->layers[1].scale.size(), 1u);
    const auto learned = worker->Step(gradients, AtStep(2));
    ASSERT_TRUE(learned.ok()) << learned.status();
    ASSERT_EQ(learned->layers[0].scale.size(), 1u);
    EXPECT_NE(learned->layers[0].scale[0], initial->layers[1].scale[0]);
    EXPECT_EQ(learned->layers[0].learned_zero_point.size(), 1u);
    EXPECT_THAT(learned->layers[0].step_min, IsEmpty());
    EXPECT_THAT(learned->layers[1].step_max, ElementsAre(2));
    EXPECT_TRUE(worker->Close(kLong).ok());
  });
}

TEST_F(SyncWorkerTest, WaitingCanBeGivenUpAndTakenUpAgain) {
  CreateSyncSession("s", 2);
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  // Counted although nobody waits for it.
  const Tensor tensor = Vector({1, 2, 3});
  const std::vector<StepLayer> layers = {{"mxnet", tensor.view()}, {"a", tensor.view()}};
  StepOptions options = AtStep(1);
  options.deadline = absl::Now() + absl::Milliseconds(20);
  const auto late = first->Step(layers, options);
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.status())) << late.status();
  EXPECT_EQ(first->next_step(), 2u);
  std::stop_source stop;
  stop.request_stop();
  options = AtStep(1);
  options.cancel = stop.get_token();
  EXPECT_TRUE(absl::IsCancelled(first->Step(layers, options).status()));
  const std::vector<StepLayer> others = {{"a", tensor.view()}};
  EXPECT_EQ(GetReason(first->Step(others, AtStep(1)).status()), v1::ERROR_REASON_INVALID_FIELD);
  ASSERT_TRUE(second->Step(layers, AtStep(1)).ok());
  const auto result = first->Step(layers, AtStep(1));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(first->stats().steps_contributed, 1u);
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(6, 6));
}

TEST_F(SyncWorkerTest, TheWindowHoldsBackWhoIsAhead) {
  CreateSyncSession("s", 2, /*window=*/2);
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  const Tensor tensor = Vector({1});
  const std::vector<StepLayer> layers = {{"ema", tensor.view()}};
  std::vector<PendingStep> pending;
  for (int i = 0; i < 2; ++i) {
    auto started = first->StartStep(layers);
    ASSERT_TRUE(started.ok()) << started.status();
    pending.push_back(*std::move(started));
  }
  StepOptions soon;
  soon.deadline = absl::Now() + absl::Milliseconds(20);
  EXPECT_TRUE(absl::IsDeadlineExceeded(first->StartStep(layers, soon).status()));
  EXPECT_EQ(first->next_step(), 3u) << "nothing was contributed";
  std::thread catches_up([&] { EXPECT_TRUE(second->Step(layers).ok()); });
  auto third = first->StartStep(layers, AtStep(3));
  catches_up.join();
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_TRUE(pending[0].Wait(absl::Now() + kLong).ok());
  EXPECT_FALSE(pending[1].ready());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(second->Step(layers).ok());
  EXPECT_TRUE(third->Wait(absl::Now() + kLong).ok());
}

TEST_F(SyncWorkerTest, MemoryIsBoundedWhileNothingBecomesDurable) {
  server_options_.engine.checkpoint_interval = absl::InfiniteDuration();
  RestartServer();
  CreateSyncSession("s", 1);
  SyncWorkerOptions options = FastRank("s", 0);
  options.kept_bytes = 64 << 10;
  const auto worker = OpenRank(options);
  const Tensor tensor{{5000}, std::vector<float>(5000, 1.5f)};
  const std::vector<StepLayer> layers = {{"mxnet", tensor.view()}};
  for (uint64_t step = 1; step <= 20; ++step) {
    const auto result = worker->Step(layers, AtStep(step));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_LE(worker->stats().kept_bytes, 68u << 10);
  }
  EXPECT_GT(worker->stats().durable_step, 10u);
}

}  // namespace
}  // namespace calib::client
