// Observers that depend on order: a step is folded in once, whole, in its worker's order.

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"
#include "tests/support/random_tensors.h"

namespace calib::server::test {
namespace {

using calib::test::RandomTensor;
using calib::test::Rng;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct StepLayer {
  std::string name;
  ObserverConfig config;
};

ObserverConfig Reference(ReferenceRule rule, uint32_t bins) {
  return {.kind = ObserverKind::kReferenceHistogram, .reference = {rule, bins, 1 << 22}};
}

// A layer of each observer that depends on order, by handle less 4.
const std::vector<StepLayer>& StepLayers() {
  static const auto* const layers =
      new std::vector<StepLayer>{{"ema", kEmaConfig},
                                 {"ema.pytorch", {.kind = ObserverKind::kEma, .ema = {EmaConvention::kPytorch, 0.25}}},
                                 {"ema.channels", kEmaChannelsConfig},
                                 {"megengine", Reference(ReferenceRule::kMegengine, 128)},
                                 {"pytorch", Reference(ReferenceRule::kPytorch, 128)},
                                 {"pytorch_current", Reference(ReferenceRule::kPytorchCurrent, 128)},
                                 {"mxnet", Reference(ReferenceRule::kMxnet, 129)}};
  return *layers;
}

constexpr uint32_t kFirst = 4;

// The tensor of step `i`: of every kind, now without finite values, now wider than those before.
std::vector<float> StepValues(uint64_t i) {
  Rng rng(i);
  std::vector<float> values(12);
  for (float& value : values) {
    value = (static_cast<float>(rng() % 2001) - 900) / 128 * static_cast<float>(1 + i / 8);
    if (rng() % 11 == 0) value = kNan;
    if (i % 9 == 5) value = i % 2 == 0 ? kNan : std::numeric_limits<float>::infinity();
  }
  return values;
}
const std::vector<uint64_t> kShape = {3, 4};

LayerStatistics FoldedInOrder(const ObserverConfig& config, uint64_t steps) {
  LayerStatistics folded(config);
  for (uint64_t i = 0; i < steps; ++i) {
    const Step step = MakeStep(folded, StepValues(i), kShape);
    EXPECT_TRUE(folded.CheckStep(step).ok()) << folded.CheckStep(step);
    folded.FoldStep(step);
  }
  return folded;
}

class StepsTest : public EngineFixture {
 protected:
  void SetUp() override {
    Start();
    std::vector<ObserverRules::Rule> rules;
    for (const StepLayer& layer : StepLayers()) rules.push_back({layer.name, layer.config, {}});
    const SessionConfig usual = TestConfig();
    for (const ObserverRules::Rule& rule : usual.rules.rules()) rules.push_back(rule);
    ASSERT_TRUE(engine_->CreateSession("s", {.rules = ObserverRules(rules)}).ok());
    ASSERT_TRUE(engine_->Checkpoint().ok());
  }
  std::shared_ptr<Session> session() { return *engine_->FindSession("s"); }
  TestStream OpenSteps(const std::string& worker = "w") {
    TestStream stream = Open(worker);
    std::vector<std::string> names;
    for (const StepLayer& layer : StepLayers()) names.push_back(layer.name);
    EXPECT_TRUE(stream.Send(RegisterRequest(kFirst, names)).ok());
    return stream;
  }
  std::vector<ChannelStatistics> State(const std::string& layer) {
    const auto snapshot = session()->GetLayer(layer);
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return snapshot.ok() ? snapshot->statistics.channels() : std::vector<ChannelStatistics>();
  }
};

TEST_F(StepsTest, RawTensorsAreFoldedInOrder) {
  TestStream stream = OpenSteps();
  constexpr uint64_t kSteps = 40;
  uint64_t unit = 0;
  for (uint64_t i = 0; i < kSteps; ++i) {
    for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
      ++unit;
      const absl::Status status = stream.Send(TensorRequest(unit, unit, kFirst + layer, StepValues(i), kShape));
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  for (const StepLayer& layer : StepLayers()) {
    EXPECT_EQ(State(layer.name), FoldedInOrder(layer.config, kSteps).channels()) << layer.name;
  }
}

TEST_F(StepsTest, StepsAsRowsAreFoldedInOrder) {
  TestStream stream = OpenSteps();
  constexpr uint64_t kSteps = 40;
  std::vector<LayerStatistics> replicas;
  for (const StepLayer& layer : StepLayers()) replicas.emplace_back(layer.config);
  uint64_t unit = 0;
  for (uint64_t i = 0; i < kSteps; ++i) {
    for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
      ++unit;
      // Now and then the server counts.
      const Step step = MakeStep(replicas[layer], StepValues(i), kShape);
      const bool reference = StepLayers()[layer].config.kind == ObserverKind::kReferenceHistogram;
      const absl::Status status =
          stream.Send((i + layer) % 5 == 0 ? TensorRequest(unit, unit, kFirst + layer, StepValues(i), kShape)
                                           : StepRequest(unit, unit, kFirst + layer, step, reference));
      ASSERT_TRUE(status.ok()) << status;
      replicas[layer].FoldStep(step);
    }
  }
  for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
    EXPECT_EQ(State(StepLayers()[layer].name), replicas[layer].channels()) << StepLayers()[layer].name;
  }
}

TEST_F(StepsTest, APartOfATensorIsRefused) {
  TestStream stream = OpenSteps();
  uint64_t unit = 0;
  for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
    ++unit;
    ASSERT_TRUE(stream.Send(TensorRequest(unit, unit, kFirst + layer, StepValues(0), kShape)).ok());
  }
  const std::string before = Describe(*session());
  ++unit;
  for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
    const std::vector<std::vector<uint64_t>> larger = {
        {3, 5}, {4, 4}, {uint64_t{1} << 32, 3}, {uint64_t{1} << 62, uint64_t{1} << 62}};
    for (const std::vector<uint64_t>& shape : larger) {
      const absl::Status status = stream.Send(TensorRequest(unit, unit, kFirst + layer, StepValues(0), shape));
      // More channels than a server takes are refused first.
      if (GetReason(status) == v1::ERROR_REASON_LIMIT_EXCEEDED) continue;
      EXPECT_EQ(GetReason(status), v1::ERROR_REASON_TENSOR_INVALID) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("part of a tensor"));
      EXPECT_THAT(std::string(status.message()), HasSubstr(StepLayers()[layer].name));
    }
    v1::ObserveRequest second_half = TensorRequest(unit, unit, kFirst + layer, StepValues(0), {2, 12});
    second_half.mutable_update()->mutable_tensor()->set_offset(12);
    EXPECT_EQ(GetReason(stream.Send(second_half)), v1::ERROR_REASON_TENSOR_INVALID);
    // As many elements as fit into 64 bits, seemingly none.
    const absl::Status wraps =
        stream.Send(TensorRequest(unit, unit, kFirst + layer, {}, {3, uint64_t{1} << 63, uint64_t{1} << 63}));
    EXPECT_EQ(GetReason(wraps), v1::ERROR_REASON_TENSOR_INVALID) << wraps;
  }
  EXPECT_EQ(Describe(*session()), before);
  EXPECT_EQ(stream.stream->ack().applied(), unit - 1);
}

TEST_F(StepsTest, RepeatedStepsAreFoldedOnce) {
  TestStream stream = OpenSteps();
  const uint32_t mxnet = kFirst + static_cast<uint32_t>(StepLayers().size()) - 1;
  LayerStatistics folded(StepLayers().back().config);
  const Step first = MakeStep(folded, {1, -2});
  folded.FoldStep(first);
  const Step second = MakeStep(folded, {7, -3});
  folded.FoldStep(second);
  ASSERT_TRUE(stream.Send(StepRequest(1, 1, mxnet, first, true)).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(2, 2, mxnet, {7, -3}, {2})).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(3, 3, kFirst, {4}, {1})).ok());
  const std::string before = Describe(*session());
  // Neither their old grid nor what they hold is looked at again.
  EXPECT_TRUE(stream.Send(StepRequest(1, 1, mxnet, first, true)).ok());
  EXPECT_TRUE(stream.Send(TensorRequest(2, 2, mxnet, {7, -3}, {2})).ok());
  EXPECT_TRUE(stream.Send(TensorRequest(2, 2, mxnet, {1e30f}, {1})).ok());
  EXPECT_TRUE(stream.Send(TensorRequest(3, 3, kFirst, {4}, {1})).ok());
  EXPECT_EQ(Describe(*session()), before);
  EXPECT_EQ(State("mxnet"), folded.channels());
}

TEST_F(StepsTest, AnotherWorkersGridIsRefusedAndItsRawTensorsAreTaken) {
  TestStream mine = OpenSteps("mine"), other = OpenSteps("other");
  const uint32_t mxnet = kFirst + static_cast<uint32_t>(StepLayers().size()) - 1;
  LayerStatistics replica(StepLayers().back().config);
  ASSERT_TRUE(mine.Send(StepRequest(1, 1, mxnet, MakeStep(replica, {1, -2}), true)).ok());
  const std::string before = Describe(*session());
  const absl::Status status = other.Send(StepRequest(1, 1, mxnet, MakeStep(replica, {5}), true));
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("feed it from one worker"));
  EXPECT_EQ(Describe(*session()), before);
  EXPECT_TRUE(other.Send(TensorRequest(1, 1, mxnet, {5}, {1})).ok());
  EXPECT_EQ(State("mxnet").at(0).reference->steps(), 2u);
}

TEST_F(StepsTest, DisabledLayersIgnoreSteps) {
  TestStream stream = OpenSteps();
  const uint32_t mxnet = kFirst + static_cast<uint32_t>(StepLayers().size()) - 1;
  LayerStatistics state(StepLayers().back().config);
  const Step first = MakeStep(state, {1, -2});
  ASSERT_TRUE(stream.Send(StepRequest(1, 1, mxnet, first, true)).ok());
  state.FoldStep(first);
  ASSERT_TRUE(session()->SetEnabled("*", false).ok());
  // On any grid, as large as may be, seen or not.
  ASSERT_TRUE(stream.Send(StepRequest(2, 2, mxnet, first, true)).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(3, 3, mxnet, {1e30f, 1}, {2})).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(4, 4, kFirst, {9, 8, 7}, {3})).ok());
  EXPECT_EQ(stream.stream->ack().values_ignored(), 2u + 2 + 3);
  EXPECT_EQ(session()->GetSummary().layer_count, 1u);
  ASSERT_TRUE(session()->SetEnabled("*", true).ok());
  ASSERT_TRUE(stream.Send(TensorRequest(5, 5, mxnet, {3}, {1})).ok());
  state.FoldStep(MakeStep(state, {3}));
  EXPECT_EQ(State("mxnet"), state.channels());
}

TEST_F(StepsTest, ChannelsOfAnEmaLayerStay) {
  TestStream stream = OpenSteps();
  const uint32_t channels = kFirst + 2;
  ASSERT_TRUE(stream.Send(TensorRequest(1, 1, channels, {1, 2, 3, 4}, {2, 2})).ok());
  const std::string before = Describe(*session());
  EXPECT_EQ(GetReason(stream.Send(TensorRequest(2, 2, channels, {1, 2, 3}, {3, 1}))),
            v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(Describe(*session()), before);
  ASSERT_TRUE(stream.Send(TensorRequest(2, 2, channels, {}, {2, 0})).ok()) << "channels without values";
  EXPECT_EQ(State("ema.channels").at(1).ema->steps, 1u);
}

TEST_F(StepsTest, NothingIsFoldedTwiceOverACrash) {
  constexpr uint64_t kUnits = 60;
  Rng rng(5);
  TestStream stream = OpenSteps();
  uint64_t unit = 1;
  uint64_t durable = 0;
  int crashes = 0;
  while (unit <= kUnits) {
    // Each unit is one step of every layer in turn; the values are the unit's.
    const uint32_t layer = unit % StepLayers().size();
    ASSERT_TRUE(stream.Send(TensorRequest(unit, unit, kFirst + layer, StepValues(unit), kShape)).ok());
    ++unit;
    if (rng() % 4 == 0) {
      ASSERT_TRUE(engine_->Checkpoint().ok());
      durable = unit - 1;
    }
    if (rng() % 6 == 0) {
      stream = {};
      Start();
      stream = OpenSteps();
      ASSERT_EQ(stream.stream->welcome().applied(), durable);
      unit = durable + 1;
      ++crashes;
    }
  }
  EXPECT_GT(crashes, 5);
  for (uint32_t layer = 0; layer < StepLayers().size(); ++layer) {
    LayerStatistics expected(StepLayers()[layer].config);
    for (uint64_t i = 1; i <= kUnits; ++i) {
      if (i % StepLayers().size() == layer) expected.FoldStep(MakeStep(expected, StepValues(i), kShape));
    }
    EXPECT_EQ(State(StepLayers()[layer].name), expected.channels()) << StepLayers()[layer].name;
  }
}

TEST_F(StepsTest, WorkersThatSendRawTogetherLoseNoStep) {
  constexpr uint32_t kWorkers = 4;
  constexpr uint64_t kUnits = 20;
  constexpr uint64_t kValues = 50000;  // so that others come in between while a step is counted
  const uint32_t mxnet = kFirst + static_cast<uint32_t>(StepLayers().size()) - 1;
  // Wider and wider, so that every worker changes the grid of all others.
  const auto width = [](uint64_t unit, uint32_t worker) {
    return static_cast<float>(std::pow(1.1, static_cast<double>(unit * kWorkers + worker)));
  };
  std::vector<std::thread> threads;
  for (uint32_t worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      TestStream stream = OpenSteps(absl::StrCat("w", worker));
      std::vector<float> values(kValues, 0.5f);
      for (uint64_t unit = 1; unit <= kUnits; ++unit) {
        values[0] = -width(unit, worker);
        const absl::Status reference = stream.Send(TensorRequest(2 * unit - 1, 2 * unit - 1, mxnet, values, {kValues}));
        EXPECT_TRUE(reference.ok()) << reference;
        const absl::Status ema = stream.Send(TensorRequest(2 * unit, 2 * unit, kFirst, {values[0], kNan}, {2}));
        EXPECT_TRUE(ema.ok()) << ema;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  constexpr uint64_t kAll = kWorkers * kUnits * kValues;
  const std::vector<ChannelStatistics> state = State("mxnet");
  ASSERT_EQ(state.size(), 1u);
  EXPECT_EQ(state[0].range.count, kAll);
  EXPECT_EQ(state[0].range.min, -width(kUnits, kWorkers - 1));
  EXPECT_EQ(state[0].reference->steps(), kWorkers * kUnits);
  // MXNet drops no value, whatever the order.
  const absl::Span<const double> counts = state[0].reference->counts();
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0.0), static_cast<double>(kAll));
  EXPECT_EQ(State("ema").at(0).ema->steps, kWorkers * kUnits);
  EXPECT_EQ(State("ema").at(0).range.count, kWorkers * kUnits);
  EXPECT_EQ(session()->GetLayer("mxnet")->workers, kWorkers);
}

TEST_F(StepsTest, ADeletedSessionEndsItsStreams) {
  TestStream stream = OpenSteps();
  ASSERT_TRUE(engine_->DeleteSession("s").ok());
  const absl::Status status = stream.Send(TensorRequest(1, 1, kFirst + 3, {1}, {1}));
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_SESSION_DELETED) << status;
}

}  // namespace
}  // namespace calib::server::test
