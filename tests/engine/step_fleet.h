#ifndef CALIB_TESTS_ENGINE_STEP_FLEET_H_
#define CALIB_TESTS_ENGINE_STEP_FLEET_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/step_model.h"
#include "tests/engine/step_tensors.h"

namespace calib::server::test {

// Time that a simulation sets. Other threads see it stand still: the engine's timer would expire steps whenever it
// happens to run, and a seed would not repeat.
class SimulatedClock : public Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch(); }
  absl::Duration Elapsed() const override {
    return std::this_thread::get_id() == owner_ ? elapsed_ : absl::ZeroDuration();
  }
  void Advance(absl::Duration by) { elapsed_ += by; }

 private:
  const std::thread::id owner_ = std::this_thread::get_id();
  absl::Duration elapsed_;
};

// What the simulated ranks share.
struct StepWorldUnderTest {
  Engine* engine = nullptr;
  StepModel* model = nullptr;
  const SimulatedClock* clock = nullptr;
  calib::test::Rng* rng = nullptr;
  LayerSet layers;  // that take part
  uint64_t window = 0;
  uint64_t steps = 0;  // that are taken in all
};

// A rank that follows the protocol, and the network between it and the server: messages of one stream stay in order,
// those on their way are lost when the connection is. It checks everything that it is told against the model.
class SimulatedRank {
 public:
  SimulatedRank(uint32_t rank, StepWorldUnderTest* world) : rank_(rank), world_(*world) {}

  bool connected() const { return stream_ != nullptr; }
  // Whether it has an answer to every step, and nothing is on its way.
  bool done() const;

  // --- What it does.

  void Connect();
  // Loses the connection; the server finds out when the rank comes back, or at once.
  void Cut(bool noticed);
  // The process ends, with all that it knows; the next one begins anew, under the same id or another.
  void Crash(bool keeps_id);
  // Contributes to the next step that it may, if any.
  void Contribute();
  // Sends once more what it contributed to some step.
  void Repeat();
  // Contributes, without layers, where it must not: too far ahead, or of an older world.
  void Stray();
  // Takes the newest acknowledgement.
  void TakeAck();

  // --- What the network does.

  // The server takes one message, or the rank does. False when none is on its way.
  bool DeliverToServer();
  bool DeliverToRank();
  // Checks what the server has told this rank's streams since the last call. After everything that happens.
  void CheckAnswers();
  // The server is gone.
  void Disconnect();

 private:
  struct Stream {
    std::shared_ptr<TestListener> listener;
    std::unique_ptr<ObserveStream> stream;
    LayerHandles handles;
    std::map<uint64_t, std::shared_ptr<const RankTensors>> given;  // what the server took last, by step
    std::set<uint64_t> awaiting;                                   // steps that were taken and not answered
    std::map<uint64_t, v1::StepGrids> grids;                       // that it was sent last, by step
  };
  struct Kept {
    std::shared_ptr<const RankTensors> tensors;
    enum class State { kToSend, kSent, kAnswered } state = State::kToSend;
    uint64_t world_epoch = 0;  // in which it was sent last
  };
  struct Request {
    v1::ObserveRequest message;
    std::shared_ptr<const RankTensors> tensors;
  };

  void TakeWelcome(const v1::Welcome& welcome);
  std::shared_ptr<const RankTensors> NewTensors(uint64_t step);
  void Send(uint64_t world_epoch, uint64_t step, const std::shared_ptr<const RankTensors>& tensors);
  void HandleContribution(const Request& request);
  void Refuse(const v1::ObserveRequest& request, const absl::Status& status);
  void CheckAnswer(const v1::ObserveResponse& message, Stream* stream);
  void TakeResult(const v1::StepResult& result);
  void TakeRefusal(const v1::Refusal& refusal);
  void TakeWorld(const v1::World& world);

  const uint32_t rank_;
  StepWorldUnderTest& world_;
  uint64_t process_ = 1;  // which worker id it has
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Stream>> abandoned_;
  std::deque<Request> to_server_;
  std::deque<std::shared_ptr<const v1::ObserveResponse>> to_rank_;

  // What the process knows.
  uint64_t world_epoch_ = 0;
  uint64_t folded_ = 0;
  std::map<uint64_t, Kept> kept_;  // by step
  LayerSet initialized_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_STEP_FLEET_H_
