// Layers whose observer depends on order: whatever happens on the way, each step is folded in once, in order.
#include <atomic>
#include <thread>

#include "client/cpp/step_reducer.h"
#include "client/cpp/worker.h"
#include "proto/codec/error.h"
#include "server/engine/observe_stream.h"
#include "tests/client/steps_fixture.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class StepsTest : public StepsFixture {};

TEST_F(StepsTest, CutConnectionsChangeNothing) {
  CreateStepSession("calm");
  CreateStepSession("stormy");
  const auto calm = OpenWorker(FastWorker("calm"));
  const auto stormy = OpenWorker(FastWorker("stormy"));
  test::Rng rng(1);
  Expected expected;
  constexpr uint64_t kSteps = 30;
  for (uint64_t i = 0; i < kSteps; ++i) {
    for (const std::string& layer : layers_) {
      const Tensor tensor = StepTensor(layer, i);
      ASSERT_TRUE(calm->Observe(layer, tensor.view()).ok());
      expected.Fold(layer, tensor);
    }
  }
  ASSERT_TRUE(calm->Close(kLong).ok());
  for (uint64_t i = 0; i < kSteps; ++i) {
    // Anywhere in what follows: in an Open, a question for a layer's state, a registration, a step.
    proxy_->CutAfter(rng() % 20000);
    for (const std::string& layer : layers_) {
      const Tensor tensor = StepTensor(layer, i);
      const absl::Status status =
          i % 3 == 0 ? stormy->SendRaw(layer, tensor.view()) : stormy->Observe(layer, tensor.view());
      ASSERT_TRUE(status.ok()) << status;
    }
    if (i % 4 == 0) {
      const absl::Status status = stormy->Flush(kLong);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  const absl::Status status = stormy->Close(kLong);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GT(stormy->stats().reconnections, 3u);
  EXPECT_EQ(stormy->stats().values_observed, kSteps * layers_.size() * 15);
  EXPECT_EQ(Statistics("stormy").SerializeAsString(), expected.Bytes());
  EXPECT_EQ(Statistics("calm").SerializeAsString(), expected.Bytes());
}

TEST_F(StepsTest, AWorkerOpenedAgainGoesOnWhereTheServerIs) {
  CreateStepSession("s");
  Expected expected;
  for (uint64_t run = 0; run < 4; ++run) {
    WorkerOptions options = FastWorker("s");
    // The same worker in a new process, then another one.
    options.worker_id = run < 3 ? "rank-0" : "rank-1";
    const auto worker = OpenWorker(options);
    for (uint64_t i = run * 4; i < run * 4 + 4; ++i) {
      for (const std::string& layer : layers_) {
        const Tensor tensor = StepTensor(layer, i);
        ASSERT_TRUE(worker->Observe(layer, tensor.view()).ok());
        expected.Fold(layer, tensor);
      }
    }
    const absl::Status status = worker->Close(kLong);
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

TEST_F(StepsTest, RestartedServersLoseNothing) {
  // Nothing becomes durable without being asked for.
  server_options_.engine.checkpoint_interval = absl::InfiniteDuration();
  RestartServer();
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  Expected expected;
  for (uint64_t i = 0; i < 6; ++i) {
    const uint64_t applied = Session("s").session().updates_applied();
    for (const std::string& layer : layers_) {
      const Tensor tensor = StepTensor(layer, i);
      const absl::Status status = worker->Observe(layer, tensor.view());
      ASSERT_TRUE(status.ok()) << status;
      expected.Fold(layer, tensor);
    }
    // Some of the round is there, and is lost.
    WaitUntilApplied("s", applied + 1);
    RestartServer();
  }
  const absl::Status status = worker->Close(kLong);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

// Nobody who listens.
class NoListener : public server::StreamListener {
 public:
  void OnDurable() override {}
  void OnEnd(const absl::Status&) override {}
  void OnStep(std::shared_ptr<const v1::ObserveResponse>) override {}
  void OnDrain() override {}
};

// A replica begins with a state that no restart takes back.
TEST_F(StepsTest, AStateThatWasNotDurableIsMadeSoBeforeItIsUsed) {
  server_options_.engine.checkpoint_interval = absl::InfiniteDuration();
  RestartServer();
  CreateStepSession("s");
  const Tensor first = Vector({1, -2});
  {
    // A worker that dies before it made its step durable.
    v1::Open open;
    open.set_session("s");
    open.set_worker_id("died");
    const auto stream = server::ObserveStream::Open(&server_->engine(), open, std::make_shared<NoListener>());
    ASSERT_TRUE(stream.ok()) << stream.status();
    v1::ObserveRequest request;
    request.mutable_register_layers()->add_name("mxnet");
    ASSERT_TRUE((*stream)->Handle(request).ok());
    v1::Update* const update = request.mutable_update();
    update->set_first(1);
    update->set_last(1);
    update->mutable_tensor()->set_data_type(v1::DATA_TYPE_FLOAT32);
    update->mutable_tensor()->add_shape(2);
    update->mutable_tensor()->set_data(first.values.data(), first.view().data.size());
    ASSERT_TRUE((*stream)->Handle(request).ok());
  }
  Expected expected;
  expected.Fold("mxnet", first);
  const std::string bytes = expected.Bytes();

  StepReducer reducer;
  Step step;
  const auto take = [&](const Step& reduced) {
    step = reduced;
    return absl::OkStatus();
  };
  const Tensor second = Vector({9});
  const ObserverConfig observer = *StepConfig().rules.Match("mxnet");
  const absl::Status status = reducer.Reduce(client_.get(), "s", "mxnet", observer, second.view(), take);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GT(step.grid.bins, 129u) << "it grows from the server's state";
  RestartServer();
  EXPECT_EQ(Statistics("s").SerializeAsString(), bytes);
}

TEST_F(StepsTest, TheRawWindowHoldsBackWhoObserves) {
  CreateStepSession("s");
  WorkerOptions options = FastWorker("s");
  options.raw_window_bytes = 1 << 20;
  const auto worker = OpenWorker(options);
  constexpr uint64_t kStepBytes = 8001 * 8;
  constexpr uint64_t kSteps = 3 * (1 << 20) / kStepBytes;
  ASSERT_TRUE(worker->Observe("wide", StepTensor("wide", 0).view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  Expected expected;
  expected.Fold("wide", StepTensor("wide", 0));
  for (uint64_t i = 0; i < kSteps; ++i) expected.Fold("wide", StepTensor("wide", 0));
  proxy_->SetAway(true);
  std::atomic<bool> all_taken{false};
  std::thread observing([&] {
    for (uint64_t i = 0; i < kSteps; ++i) {
      EXPECT_TRUE(worker->Observe("wide", StepTensor("wide", 0).view()).ok());
      EXPECT_LE(worker->stats().pending_bytes, (1u << 20) + 4096);
    }
    all_taken = true;
  });
  const absl::Time deadline = absl::Now() + kLong;
  while (worker->stats().pending_bytes < (1 << 20) - 2 * kStepBytes && absl::Now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(all_taken) << "three windows do not fit into one";
  proxy_->SetAway(false);
  observing.join();
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

TEST_F(StepsTest, ThreadsObserveTogether) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kSteps = 25;
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < kSteps; ++i) {
        for (const std::string layer : {"mxnet", "ema", "a"}) {
          const auto width = static_cast<float>(thread + kThreads * i);
          const absl::Status status = worker->Observe(layer, Vector({-width, 0.5f, 1}).view());
          EXPECT_TRUE(status.ok()) << status;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const absl::Status status = worker->Close(kLong);
  ASSERT_TRUE(status.ok()) << status;
  const v1::GetStatisticsResponse statistics = Statistics("s");
  ASSERT_THAT(statistics.layer(), ElementsAre("a", "ema", "mxnet"));
  EXPECT_THAT(statistics.statistics().count(), ::testing::Each(3 * kThreads * kSteps));
  EXPECT_EQ(statistics.statistics().ema(0).steps(), kThreads * kSteps);
  EXPECT_EQ(statistics.statistics().reference_histogram(0).steps(), kThreads * kSteps);
  double counted = 0;
  for (const double count : statistics.statistics().reference_histogram(0).count()) counted += count;
  EXPECT_EQ(counted, 3 * kThreads * kSteps) << "MXNet drops no value";
}

TEST_F(StepsTest, PassiveAndSkippedLayersTakeNothing) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  for (const std::string layer : {"passive", "debug"}) {
    EXPECT_TRUE(worker->Observe(layer, Vector({1, 2}).view()).ok());
    EXPECT_TRUE(worker->SendRaw(layer, Vector({1, 2}).view()).ok());
  }
  // Channels of which there are none.
  EXPECT_TRUE(worker->Observe("ema.channels", Tensor{{2, 0}, {}}.view()).ok());
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(worker->stats().values_observed, 0u);
  EXPECT_THAT(Session("s").layer(), IsEmpty());
  EXPECT_EQ(Session("s").session().updates_applied(), 0u);
}

}  // namespace
}  // namespace calib::client
