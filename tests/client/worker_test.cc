#include "client/cpp/worker.h"

#include <string>
#include <thread>
#include <vector>

#include "proto/codec/error.h"
#include "tests/client/client_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WorkerTest : public ClientFixture {
 protected:
  // Layers of every observer.
  static v1::SessionConfig MixedConfig() {
    v1::SessionConfig config;
    v1::LayerRule* rule = config.add_rules();
    rule->set_pattern("range.*");
    rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_MINMAX);
    rule = config.add_rules();
    rule->set_pattern("channels");
    rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
    rule->mutable_observer()->set_channel_axis(1);
    rule = config.add_rules();
    rule->set_pattern("debug.*");
    rule->set_skip(true);
    rule = config.add_rules();
    rule->set_pattern("*");
    rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
    return config;
  }
  // Tensor number `i` of `layer`: the same for the same arguments.
  static Tensor MakeTensor(const std::string& layer, uint64_t i, uint64_t rows = 50) {
    test::Rng rng(std::hash<std::string>()(layer) + i);
    return {{rows, 3, 7}, test::RandomTensor(rng, rows * 21)};
  }
  const std::vector<std::string> layers_ = {"a", "b", "range.a", "channels", "debug.x"};
};

TEST_F(WorkerTest, ObservedAndRawTensorsGiveEqualStatistics) {
  CreateSession("observed", MixedConfig());
  CreateSession("raw", MixedConfig());
  const auto observed = OpenWorker(FastWorker("observed"));
  const auto raw = OpenWorker(FastWorker("raw"));
  for (uint64_t i = 0; i < 20; ++i) {
    for (const std::string& layer : layers_) {
      const Tensor tensor = MakeTensor(layer, i);
      ASSERT_TRUE(observed->Observe(layer, tensor.view()).ok());
      ASSERT_TRUE(raw->SendRaw(layer, tensor.view()).ok());
    }
  }
  const Tensor empty{{0, 3, 7}, {}};
  ASSERT_TRUE(observed->Observe("empty", empty.view()).ok());
  ASSERT_TRUE(raw->SendRaw("empty", empty.view()).ok());
  ASSERT_TRUE(observed->Close(kLong).ok());
  ASSERT_TRUE(raw->Close(kLong).ok());

  const v1::GetStatisticsResponse statistics = Statistics("observed");
  EXPECT_THAT(statistics.layer(), ElementsAre("a", "b", "channels", "empty", "range.a"));
  EXPECT_EQ(statistics.SerializeAsString(), Statistics("raw").SerializeAsString());
  // Four layers, as debug.* is skipped.
  EXPECT_EQ(observed->stats().values_observed, 4 * 20 * 50 * 21u);
  EXPECT_EQ(raw->stats().values_observed, 4 * 20 * 50 * 21u);
  EXPECT_EQ(raw->stats().durable, 81u);
  EXPECT_EQ(raw->stats().pending_bytes, 0u);
}

TEST_F(WorkerTest, CutConnectionsChangeNothing) {
  CreateSession("calm", MixedConfig());
  CreateSession("stormy", MixedConfig());
  const auto calm = OpenWorker(FastWorker("calm"));
  const auto stormy = OpenWorker(FastWorker("stormy"));
  test::Rng rng(1);
  constexpr int kCuts = 25;
  for (int i = 0; i < kCuts; ++i) {
    for (const std::string& layer : layers_) {
      const Tensor tensor = MakeTensor(layer, i, 1000);
      ASSERT_TRUE(calm->Observe(layer, tensor.view()).ok());
    }
  }
  ASSERT_TRUE(calm->Close(kLong).ok());
  for (int i = 0; i < kCuts; ++i) {
    // Anywhere in what follows: in an Open, in a registration, in statistics, in a chunk.
    proxy_->CutAfter(rng() % 100000);
    for (const std::string& layer : layers_) {
      const Tensor tensor = MakeTensor(layer, i, 1000);
      ASSERT_TRUE((i % 2 == 0 ? stormy->Observe(layer, tensor.view()) : stormy->SendRaw(layer, tensor.view())).ok());
    }
    if (i % 3 == 0) {
      const absl::Status status = stormy->Flush(kLong);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  const absl::Status status = stormy->Close(kLong);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GT(stormy->stats().reconnections, 3u);
  EXPECT_EQ(Statistics("stormy").SerializeAsString(), Statistics("calm").SerializeAsString());
}

TEST_F(WorkerTest, RestartedServersForgetNothingThatTheWorkerDoesNotSendAgain) {
  // Nothing becomes durable without being asked for.
  server_options_.engine.checkpoint_interval = absl::InfiniteDuration();
  RestartServer();
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(worker->Observe("a", Vector({1, 2}).view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  for (int i = 0; i < 5; ++i) {
    const uint64_t applied = Session("s").session().updates_applied();
    ASSERT_TRUE(worker->Observe("a", Vector({3}).view()).ok());
    ASSERT_TRUE(worker->SendRaw("a", Vector({-4, 5}).view()).ok());
    WaitUntilApplied("s", applied + 2);
    RestartServer();
  }
  const absl::Status status = worker->Close(kLong);
  ASSERT_TRUE(status.ok()) << status;
  const v1::GetStatisticsResponse statistics = Statistics("s");
  EXPECT_THAT(statistics.statistics().count(), ElementsAre(2 + 5 * 3));
  EXPECT_THAT(statistics.statistics().min(), ElementsAre(-4));
  EXPECT_THAT(statistics.statistics().max(), ElementsAre(5));
}

TEST_F(WorkerTest, DrainingServersLoseNothing) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(worker->Observe("a", Vector({1, 2, 3}).view()).ok());
    ASSERT_TRUE(server_->Stop(kLong).ok());
    RestartServer();
  }
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(9));
}

TEST_F(WorkerTest, MemoryIsBoundedWhileTheServerIsAway) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  const Tensor tensor = MakeTensor("a", 0);
  ASSERT_TRUE(worker->Observe("a", tensor.view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  proxy_->SetAway(true);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(worker->Observe("a", tensor.view()).ok());
  // 512 pages of 128 counters, doubled by the growth of their vector, pending and in each round that may have been
  // sent.
  EXPECT_LE(worker->stats().pending_bytes, 5u * 2 * 512 * 1024);

  const absl::Status flushed = worker->Flush(absl::Milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(flushed)) << flushed;
  EXPECT_THAT(std::string(flushed.message()), HasSubstr("bytes are not durable yet at calibd at " + proxy_->address()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(worker->Close(absl::Milliseconds(1))));
  EXPECT_TRUE(worker->status().ok());

  proxy_->SetAway(false);
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(Session("s").session().values(), 1001 * tensor.values.size());
}

TEST_F(WorkerTest, TheRawWindowHoldsBackWhoSends) {
  server_options_.engine.checkpoint_bytes = 256 << 10;
  RestartServer();
  CreateSession("s");
  WorkerOptions options = FastWorker("s");
  options.raw_window_bytes = 1 << 20;
  const auto worker = OpenWorker(options);
  const Tensor tensor{{100000}, std::vector<float>(100000, 1.5f)};
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(worker->SendRaw("a", tensor.view()).ok());
    ASSERT_LE(worker->stats().pending_bytes, (1u << 20) + 4096);
  }
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(2000000));
}

TEST_F(WorkerTest, ClosedWorkersTakeNothing) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(worker->Close(kLong).ok());
  const Tensor tensor = Vector({1});
  for (const absl::Status& status : {worker->Observe("a", tensor.view()), worker->SendRaw("a", tensor.view()),
                                     worker->Flush(kLong), worker->Close(kLong)}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  EXPECT_TRUE(worker->status().ok());
}

TEST_F(WorkerTest, TheDestructorSendsWhatIsLeft) {
  CreateSession("s");
  ASSERT_TRUE(OpenWorker(FastWorker("s"))->Observe("a", Vector({1, 2}).view()).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(2));
}

TEST_F(WorkerTest, ASecondWorkerOfTheSameIdFencesTheFirst) {
  CreateSession("s");
  WorkerOptions options = FastWorker("s");
  options.worker_id = "twin";
  const auto first = OpenWorker(options);
  const auto second = OpenWorker(options);
  ASSERT_TRUE(first->Observe("a", Vector({1}).view()).ok() || !first->status().ok());
  const absl::Status fenced = first->Flush(kLong);
  EXPECT_EQ(GetReason(fenced), v1::ERROR_REASON_WORKER_FENCED) << fenced;
  EXPECT_EQ(GetReason(first->Observe("a", Vector({1}).view())), v1::ERROR_REASON_WORKER_FENCED);
  ASSERT_TRUE(second->Observe("a", Vector({1, 2}).view()).ok());
  ASSERT_TRUE(second->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(2));
}

TEST_F(WorkerTest, AWorkerIdGoesOnInANewProcess) {
  CreateSession("s");
  WorkerOptions options = FastWorker("s");
  options.worker_id = "rank-0";
  for (uint64_t run = 1; run <= 3; ++run) {
    const auto worker = OpenWorker(options);
    EXPECT_EQ(worker->worker_id(), "rank-0");
    ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok());
    ASSERT_TRUE(worker->Close(kLong).ok());
    EXPECT_EQ(worker->stats().durable, run);
  }
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(3));
  EXPECT_EQ(Session("s").worker_size(), 1);
}

TEST_F(WorkerTest, ARefusedLayerIsReportedAndOthersGoOn) {
  CreateSession("s", MixedConfig());
  const auto first = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(first->Observe("channels", Tensor{{1, 3}, {1, 2, 3}}.view()).ok());
  ASSERT_TRUE(first->Close(kLong).ok());

  const auto second = OpenWorker(FastWorker("s"));
  const Tensor four_channels{{1, 4}, {1, 2, 3, 4}};
  ASSERT_TRUE(second->Observe("channels", four_channels.view()).ok());
  ASSERT_TRUE(second->Observe("a", Vector({1, 2}).view()).ok());
  EXPECT_EQ(GetReason(second->Flush(kLong)), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(GetReason(second->status()), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(GetReason(second->Observe("channels", four_channels.view())), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  const absl::Status good = second->Observe("a", Vector({3}).view());
  ASSERT_TRUE(good.ok()) << good;
  EXPECT_EQ(GetReason(second->Close(kLong)), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(second->stats().values_refused, 4u);
  EXPECT_THAT(Statistics("s").layer(), ElementsAre("a", "channels"));
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(3, 1, 1, 1));
}

TEST_F(WorkerTest, BadTensorsAndNamesAreRefusedBeforeTheyAreSent) {
  CreateSession("s", MixedConfig());
  const auto worker = OpenWorker(FastWorker("s"));
  const Tensor short_data{{3, 3}, {1, 2}};
  EXPECT_TRUE(worker->Observe("a", short_data.view()).ok());  // a run of a larger tensor
  const Tensor long_data{{1}, {1, 2}};
  const Tensor no_axis{{2}, {1, 2}};
  for (const bool raw : {false, true}) {
    const auto send = [&](const std::string& layer, const Tensor& tensor) {
      return raw ? worker->SendRaw(layer, tensor.view()) : worker->Observe(layer, tensor.view());
    };
    EXPECT_TRUE(absl::IsInvalidArgument(send("a", long_data)));
    EXPECT_TRUE(absl::IsInvalidArgument(send("channels", no_axis)));
    EXPECT_EQ(GetReason(send("", no_axis)), v1::ERROR_REASON_LAYER_NAME_INVALID);
    EXPECT_EQ(GetReason(send("\xc3(", no_axis)), v1::ERROR_REASON_LAYER_NAME_INVALID);
  }
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(2));
}

TEST_F(WorkerTest, ADeletedSessionEndsItsWorkers) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  v1::DeleteSessionRequest request;
  request.set_session("s");
  ASSERT_TRUE(client_->DeleteSession(request).ok());
  ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok() || !worker->status().ok());
  const absl::Status status = worker->Flush(kLong);
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

TEST_F(WorkerTest, ASealedSessionTakesNothingMoreAndKeepsWhatItHas) {
  CreateSession("s");
  const auto finished = OpenWorker(FastWorker("s"));
  const auto late = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(finished->Observe("a", Vector({1}).view()).ok());
  ASSERT_TRUE(finished->Flush(kLong).ok());
  v1::SealSessionRequest request;
  request.set_session("s");
  ASSERT_TRUE(client_->SealSession(request).ok());
  EXPECT_TRUE(finished->Close(kLong).ok());
  ASSERT_TRUE(late->Observe("a", Vector({2}).view()).ok());
  EXPECT_EQ(GetReason(late->Close(kLong)), v1::ERROR_REASON_SESSION_SEALED);
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(1));
}

TEST_F(WorkerTest, AServerThatForgotDurableDataIsReported) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(worker->Observe("a", Vector({1}).view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  proxy_->SetAway(true);
  server_options_.store = std::make_shared<server::MemoryStore>();
  RestartServer();
  Client direct(OptionsFor(server_->address()));
  v1::CreateSessionRequest request;
  request.set_session("s");
  ASSERT_TRUE(direct.CreateSession(request).ok());
  ASSERT_TRUE(worker->Observe("a", Vector({2}).view()).ok());
  proxy_->SetAway(false);
  const absl::Status status = worker->Flush(kLong);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("units 1 to 1"));
  EXPECT_TRUE(absl::IsDataLoss(worker->status()));
}

TEST_F(WorkerTest, ASessionMadeAgainWithAnotherConfigIsReported) {
  CreateSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  proxy_->SetAway(true);
  Client direct(OptionsFor(server_->address()));
  v1::DeleteSessionRequest delete_request;
  delete_request.set_session("s");
  ASSERT_TRUE(direct.DeleteSession(delete_request).ok());
  v1::CreateSessionRequest create_request;
  create_request.set_session("s");
  create_request.mutable_config()->set_mantissa_bits(5);
  ASSERT_TRUE(direct.CreateSession(create_request).ok());
  proxy_->SetAway(false);
  ASSERT_TRUE(worker->Observe("a", Vector({2}).view()).ok() || !worker->status().ok());
  EXPECT_EQ(GetReason(worker->Flush(kLong)), v1::ERROR_REASON_SESSION_CONFIG_MISMATCH);
}

TEST_F(WorkerTest, ThreadsObserveTogether) {
  CreateSession("together", MixedConfig());
  CreateSession("alone", MixedConfig());
  const auto together = OpenWorker(FastWorker("together"));
  const auto alone = OpenWorker(FastWorker("alone"));
  constexpr uint64_t kThreads = 4;
  constexpr uint64_t kTensors = 50;
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < kTensors; ++i) {
        for (const std::string& layer : layers_) {
          const Tensor tensor = MakeTensor(layer, thread * kTensors + i);
          EXPECT_TRUE(
              (i % 5 == 0 ? together->SendRaw(layer, tensor.view()) : together->Observe(layer, tensor.view())).ok());
        }
        if (i % 20 == 19) {
          EXPECT_TRUE(together->Flush(kLong).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t i = 0; i < kThreads * kTensors; ++i) {
    for (const std::string& layer : layers_) ASSERT_TRUE(alone->Observe(layer, MakeTensor(layer, i).view()).ok());
  }
  ASSERT_TRUE(together->Close(kLong).ok());
  ASSERT_TRUE(alone->Close(kLong).ok());
  EXPECT_EQ(Statistics("together").SerializeAsString(), Statistics("alone").SerializeAsString());
}

TEST_F(WorkerTest, OpenSaysWhatIsWrong) {
  const auto unknown = Worker::Open(client_, FastWorker("nowhere"), kLong);
  EXPECT_EQ(GetReason(unknown.status()), v1::ERROR_REASON_SESSION_NOT_FOUND) << unknown.status();
  CreateSession("s");
  WorkerOptions bad_id = FastWorker("s");
  bad_id.worker_id = "no spaces";
  EXPECT_EQ(GetReason(Worker::Open(client_, bad_id, kLong).status()), v1::ERROR_REASON_INVALID_FIELD);

  proxy_->SetAway(true);
  ClientOptions options = OptionsFor(proxy_->address());
  for (const bool retry : {false, true}) {
    options.retry_unavailable = retry;
    const absl::Time begin = absl::Now();
    const auto worker =
        Worker::Open(std::make_shared<Client>(options), FastWorker("s"), retry ? absl::Milliseconds(300) : kLong);
    EXPECT_TRUE(absl::IsUnavailable(worker.status())) << worker.status();
    EXPECT_THAT(std::string(worker.status().message()), HasSubstr("cannot reach calibd at " + proxy_->address()));
    EXPECT_LT(absl::Now() - begin, kLong / 2);
  }
}

}  // namespace
}  // namespace calib::client
