#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "client/cpp/outbox.h"
#include "tests/client/model_server.h"
#include "tests/support/random_tensors.h"

namespace calib::client {
namespace {

using test::ModelServer;
using test::RandomTensor;
using test::Rng;

constexpr std::array<const char*, 6> kLayers = {"a", "b", "range.a", "range.b", "channels", "refused"};
constexpr uint64_t kChannels = 3;

// One worker's outbox, a server, and a network between them that delivers in order, and at any moment loses everything
// on its way. Each seed is another history.
class Simulation {
 public:
  Simulation(uint64_t seed, bool name_refused_layers)
      : rng_(seed),
        name_refused_layers_(name_refused_layers),
        server_(name_refused_layers),
        // Small messages, so that rounds take several, and even layers do.
        outbox_(1 + Pick(3), Chance(50) ? 300 : kMaxBatchBytes) {}

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      Step();
      CheckStep();
    }
    Drain();
    CheckEnd();
  }

 private:
  int Pick(int choices) { return static_cast<int>(rng_() % static_cast<uint64_t>(choices)); }
  bool Chance(int percent) { return Pick(100) < percent; }

  void Step() {
    const int action = Pick(100);
    if (action < 25) {
      Observe();
    } else if (action < 55) {
      if (connected_) {
        Send();
      } else if (Chance(50)) {
        Connect();
      }
    } else if (action < 75) {
      ServerTakes();
    } else if (action < 90) {
      Deliver();
    } else if (action < 94) {
      Cut();
    } else if (action < 98) {
      server_.Checkpoint();
      if (connected_) to_client_.emplace_back().mutable_ack()->CopyFrom(server_.MakeAck());
    } else {
      Cut();
      server_.Crash();
    }
  }

  // One tensor of a layer, as statistics or raw.
  void Observe() {
    const std::string layer = kLayers[Pick(Chance(3) ? 6 : 5)];
    const ObserverConfig config = ModelServer::ObserverOf(layer);
    const uint64_t columns = 1 + Pick(4);
    const std::vector<float> values = RandomTensor(rng_, kChannels * columns);
    const std::vector<uint64_t> shape = {kChannels, columns};
    TensorView tensor;
    tensor.shape = shape;
    tensor.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
    LayerStatistics statistics(config);
    ASSERT_TRUE(observer_.Observe(tensor, &statistics).ok());
    absl::Status status;
    if (Chance(30)) {
      v1::TensorChunk chunk;
      chunk.set_data_type(v1::DATA_TYPE_FLOAT32);
      chunk.mutable_shape()->Assign(shape.begin(), shape.end());
      chunk.set_data(values.data(), values.size() * sizeof(float));
      status = outbox_.AddRaw(layer, config, statistics.channels().size(), std::move(chunk));
    } else {
      status = outbox_.Add(layer, statistics);
    }
    if (layer == "refused" && !status.ok()) return;
    ASSERT_TRUE(status.ok()) << status;
    values_added_ += values.size();
    expected_.try_emplace(layer, config).first->second.Merge(statistics);
  }

  void Connect() {
    const v1::Welcome welcome = server_.Open();
    if (Chance(20)) return;  // lost on its way
    const absl::Status status = outbox_.OnWelcome(welcome);
    ASSERT_TRUE(status.ok()) << status;
    connected_ = true;
  }

  bool Send() {
    const auto message = outbox_.NextMessage(/*statistics_due=*/Chance(60));
    if (message == nullptr) return false;
    to_server_.push_back(*message);
    return true;
  }

  void ServerTakes() {
    if (to_server_.empty()) return;
    // A repeated message changes nothing, whatever comes before or after it.
    const bool repeat = to_server_.front().has_update() && Chance(10);
    const v1::ObserveResponse response = server_.Take(to_server_.front());
    if (repeat && response.has_ack()) server_.Take(to_server_.front());
    to_server_.pop_front();
    // Acks conflate.
    if (response.has_refusal() || Chance(70)) to_client_.push_back(response);
  }

  void Deliver() {
    if (to_client_.empty()) return;
    const v1::ObserveResponse response = to_client_.front();
    to_client_.pop_front();
    if (response.has_ack()) {
      const absl::Status status = outbox_.OnAck(response.ack());
      ASSERT_TRUE(status.ok()) << status;
      return;
    }
    ASSERT_NE(outbox_.OnRefusal(response.refusal()), RefusalMeaning::kWorkerEnds) << response.DebugString();
    Cut();
  }

  // Some of what is on its way still arrives at the server, and nothing comes back.
  void Cut() {
    for (int arrive = Pick(4); arrive > 0; --arrive) ServerTakes();
    to_server_.clear();
    to_client_.clear();
    connected_ = false;
    outbox_.OnStreamEnd();
  }

  void CheckStep() {
    ASSERT_LE(outbox_.durable(), outbox_.applied());
    ASSERT_LE(outbox_.applied(), outbox_.sent());
    ASSERT_LE(outbox_.durable(), server_.durable());
    if (connected_) {
      ASSERT_LE(outbox_.applied(), server_.applied());
      ASSERT_LE(server_.applied(), outbox_.sent());
    }
  }

  // Sends everything without further losses.
  void Drain() {
    const uint64_t mark = outbox_.Mark();
    for (int i = 0; i < 100 && !outbox_.IsDurable(mark) && !testing::Test::HasFailure(); ++i) {
      if (!connected_) Connect();
      while (connected_ && (Send() || !to_server_.empty())) ServerTakes();
      server_.Checkpoint();
      if (connected_) to_client_.emplace_back().mutable_ack()->CopyFrom(server_.MakeAck());
      while (connected_ && !to_client_.empty()) Deliver();
    }
    ASSERT_TRUE(outbox_.IsDurable(mark));
    ASSERT_TRUE(outbox_.IsApplied(mark));
  }

  void CheckEnd() {
    ASSERT_EQ(outbox_.durable(), server_.durable());
    ASSERT_EQ(outbox_.TotalBytes(), 0u);
    ASSERT_EQ(server_.Values() + outbox_.values_refused(), values_added_);
    ASSERT_EQ(outbox_.refusal().ok(), outbox_.values_refused() == 0);
    if (!name_refused_layers_) return;
    // No other layer lost anything to the refused one.
    expected_.erase("refused");
    // A layer whose update was refused beside it may have been made, without values.
    for (const auto& [layer, statistics] : server_.layers()) {
      ASSERT_TRUE(statistics.empty() || expected_.count(layer) == 1) << layer;
    }
    for (const auto& [layer, statistics] : expected_) {
      ASSERT_EQ(server_.layers().at(layer).channels(), statistics.channels()) << layer;
    }
  }

  Rng rng_;
  const bool name_refused_layers_;
  ModelServer server_;
  Outbox outbox_;
  TensorObserver observer_;
  bool connected_ = false;
  std::deque<v1::ObserveRequest> to_server_;
  std::deque<v1::ObserveResponse> to_client_;
  std::map<std::string, LayerStatistics> expected_;
  uint64_t values_added_ = 0;
};

TEST(OutboxSimulation, EverythingIsCountedExactlyOnce) {
  for (uint64_t seed = 0; seed < 2000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation(seed, /*name_refused_layers=*/true).Run(200);
  }
}

TEST(OutboxSimulation, EverythingIsCountedOnceOrReportedAsRefused) {
  for (uint64_t seed = 0; seed < 1000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Simulation(seed, /*name_refused_layers=*/false).Run(200);
  }
}

}  // namespace
}  // namespace calib::client
