#ifndef CALIB_TESTS_CLIENT_SYNC_FIXTURE_H_
#define CALIB_TESTS_CLIENT_SYNC_FIXTURE_H_

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/cpp/sync_worker.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "tests/client/client_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::client {

// Sessions with synchronous steps, and ranks of them.
class SyncFixture : public ClientFixture {
 protected:
  static constexpr uint64_t kRows = 12;  // of a step's tensors, of all ranks together
  static constexpr uint64_t kColumns = 3;

  static SessionConfig StepConfig(const SynchronousOptions& synchronous) {
    const auto observer = [](ObserverKind kind) {
      ObserverConfig config;
      config.kind = kind;
      return config;
    };
    ObserverConfig channels = observer(ObserverKind::kMinMax);
    channels.channel_axis = 1;
    ObserverConfig mxnet = observer(ObserverKind::kReferenceHistogram);
    mxnet.reference = {ReferenceRule::kMxnet, 65, 0};
    ObserverConfig megengine = observer(ObserverKind::kReferenceHistogram);
    megengine.reference = {ReferenceRule::kMegengine, 64, 0};
    ObserverConfig learned = observer(ObserverKind::kLearned);
    learned.learned = LearnedOptions();
    std::vector<ObserverRules::Rule> rules = {{"ema*", observer(ObserverKind::kEma), {}},
                                              {"mxnet*", mxnet, {}},
                                              {"megengine*", megengine, {}},
                                              {"channels*", channels, {}},
                                              {"learned*", learned, {}},
                                              {"passive*", observer(ObserverKind::kPassive), {}},
                                              {"debug*", std::nullopt, {}},
                                              {"*", observer(ObserverKind::kHistogram), {}}};
    SessionConfig config;
    config.rules = ObserverRules(std::move(rules));
    config.synchronous = synchronous;
    return config;
  }
  void CreateSyncSession(const std::string& name, uint32_t ranks, uint32_t window = 16) {
    SynchronousOptions synchronous;
    synchronous.world_size = ranks;
    synchronous.window = window;
    CreateSession(name, EncodeSessionConfig(StepConfig(synchronous)));
  }

  static SyncWorkerOptions FastRank(std::string session, uint32_t rank) {
    SyncWorkerOptions options;
    options.session = std::move(session);
    options.rank = rank;
    options.min_backoff = absl::Milliseconds(1);
    options.max_backoff = absl::Milliseconds(20);
    return options;
  }
  std::unique_ptr<SyncWorker> OpenRank(const SyncWorkerOptions& options) {
    auto worker = SyncWorker::Open(client_, options, kLong);
    EXPECT_TRUE(worker.ok()) << worker.status();
    return worker.ok() ? *std::move(worker) : nullptr;
  }
  std::unique_ptr<SyncWorker> OpenRank(const std::string& session, uint32_t rank) {
    return OpenRank(FastRank(session, rank));
  }

  // The tensor of `step` of `layer`, of all ranks; wider from step to step.
  static Tensor WholeTensor(const std::string& layer, uint64_t step) {
    test::Rng rng(std::hash<std::string>()(layer) + step);
    Tensor tensor{{kRows, kColumns}, std::vector<float>(kRows * kColumns)};
    for (float& value : tensor.values) {
      value = (static_cast<float>(rng() % 2001) - 900) / 128 * static_cast<float>(1 + step / 3);
    }
    if (step % 4 == 2) tensor.values[rng() % tensor.values.size()] = std::numeric_limits<float>::quiet_NaN();
    return tensor;
  }
  // A rank's rows of it.
  static Tensor PartOf(const Tensor& whole, uint32_t ranks, uint32_t rank) {
    const uint64_t begin = kRows * rank / ranks, end = kRows * (rank + 1) / ranks;
    const auto value = [&](uint64_t row) { return whole.values.begin() + static_cast<ptrdiff_t>(row * kColumns); };
    return {{end - begin, kColumns}, std::vector<float>(value(begin), value(end))};
  }
  // What a rank gives for a step; owns it.
  struct Given {
    Given(uint32_t ranks, uint32_t rank, uint64_t step) {
      for (const std::string& name : Layers()) tensors.push_back(PartOf(WholeTensor(name, step), ranks, rank));
      for (size_t i = 0; i < tensors.size(); ++i) layers.push_back({Layers()[i], tensors[i].view()});
    }
    std::vector<Tensor> tensors;
    std::vector<StepLayer> layers;
  };
  static const std::vector<std::string>& Layers() {
    static const auto* const layers =
        new std::vector<std::string>{"mxnet", "ema", "debug", "channels", "a", "passive", "megengine"};
    return *layers;
  }

  static StepOptions AtStep(uint64_t step) {
    StepOptions options;
    options.step = step;
    options.deadline = absl::Now() + kLong;
    return options;
  }
  // Steps `first` to `last` as one rank, in lock-step with the others.
  void RunRank(SyncWorker* worker, uint32_t ranks, uint32_t rank, uint64_t first, uint64_t last) {
    for (uint64_t step = first; step <= last && !HasFailure(); ++step) {
      const Given given(ranks, rank, step);
      const auto result = worker->Step(given.layers, AtStep(step));
      ASSERT_TRUE(result.ok()) << "rank " << rank << ", step " << step << ": " << result.status();
      ASSERT_EQ(result->step, step);
      ASSERT_EQ(result->ranks, ranks);
      ASSERT_TRUE(result->counted);
      ASSERT_EQ(result->layers.size(), given.layers.size());
    }
  }
  static void Together(uint32_t ranks, const std::function<void(uint32_t rank)>& run) {
    std::vector<std::thread> threads;
    for (uint32_t rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
    for (std::thread& thread : threads) thread.join();
  }
  // What a session holds after one rank gave these steps whole.
  std::string ExpectedStatistics(uint64_t steps) {
    CreateSyncSession("expected", 1);
    const auto worker = OpenRank("expected", 0);
    RunRank(worker.get(), 1, 0, 1, steps);
    EXPECT_TRUE(worker->Close(kLong).ok());
    return Statistics("expected").SerializeAsString();
  }
};

}  // namespace calib::client

#endif  // CALIB_TESTS_CLIENT_SYNC_FIXTURE_H_
