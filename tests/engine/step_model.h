#ifndef CALIB_TESTS_ENGINE_STEP_MODEL_H_
#define CALIB_TESTS_ENGINE_STEP_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "quant/observer_config.h"
#include "server/engine/session.h"
#include "tests/engine/step_oracle.h"
#include "tests/engine/step_tensors.h"

namespace calib::server::test {

// What the contract says of a synchronous session: which contributions stand, which steps they make, what of it is
// durable. It is told what happens, and fails the test where the session did something else.
class StepModel {
 public:
  explicit StepModel(const SynchronousOptions& options);

  // --- What happens.

  // What is to become of a contribution.
  enum class Verdict { kNew, kAgain, kCounted, kLate, kNoRank, kStale, kOutOfWindow };
  Verdict Judge(uint32_t rank, uint64_t world_epoch, uint64_t step) const;
  // It was answered so.
  void NoteAnswered(Verdict verdict);
  // It was taken: kNew or kAgain. `content` tells whether a contribution says the same as the one before.
  void Take(uint32_t rank, uint64_t step, std::shared_ptr<const RankTensors> tensors, const std::string& content,
            absl::Duration now);
  // The rank's counts for a step came, on the grids that it was sent last.
  void TakeCounts(uint32_t rank, uint64_t step);
  // The world changed.
  void SetWorld(uint32_t size);
  // Deadlines passed; the session has looked at them.
  void NoteExpired(absl::Duration now);
  // All of the session that there is now is durable.
  void NoteDurable() { durable_ = state_; }
  // The server started again.
  void NoteRestart();

  // Takes over what the session has folded or failed since, if it may have.
  void Follow(const Session& session);
  // Fails the test unless the session holds what it should.
  void ExpectLayers(const Session& session) const;

  // --- What holds.

  uint64_t world_epoch() const { return state_.world_epoch; }
  uint32_t world_size() const { return state_.world_size; }
  uint64_t folded_step() const { return state_.folded.size(); }
  uint64_t durable_step() const { return durable_.folded.size(); }
  // Why contributions were dropped last.
  v1::ErrorReason last_drop() const { return last_drop_; }
  // A contribution to an open step stands.
  bool IsOpen(uint32_t rank, uint64_t step) const;
  // After the last folded step.
  const StepOracle& oracle() const { return state_.folded.empty() ? empty_ : state_.folded.back()->after; }

  // Fails the test unless `result` is what a rank with these tensors and handles is to be told of a folded step.
  void ExpectResult(const v1::StepResult& result, uint32_t rank, const RankTensors& tensors,
                    const LayerHandles& handles) const;

 private:
  struct Contribution {
    std::shared_ptr<const RankTensors> tensors;
    std::string content;
    bool counted = false;  // its counts came, or none are needed
  };
  struct OpenStep {
    std::map<uint32_t, Contribution> ranks;
    absl::Duration since;
  };
  struct Folded {
    uint64_t world_epoch;
    uint32_t world_size;
    std::vector<bool> ranks;
    StepOracle after;
  };
  struct State {
    uint64_t world_epoch = 1;
    uint32_t world_size = 0;
    std::vector<std::shared_ptr<const Folded>> folded;  // step 1 first
    uint64_t partial = 0, failed = 0, late = 0, repeated = 0;
    uint64_t values = 0;
  };

  void FoldLowest();
  bool DeadlinePassed() const;

  const SynchronousOptions options_;
  const StepOracle empty_;
  State state_, durable_;
  std::map<uint64_t, OpenStep> open_;
  v1::ErrorReason last_drop_ = v1::ERROR_REASON_UNSPECIFIED;
  absl::Duration expired_ = -absl::InfiniteDuration();  // when deadlines were last looked at
};

// Layers that are learned and have a value.
LayerSet InitializedLayers(const StepOracle& oracle);

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_STEP_MODEL_H_
