#ifndef CALIB_TESTS_CLIENT_STEP_MODEL_SERVER_H_
#define CALIB_TESTS_CLIENT_STEP_MODEL_SERVER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "calib/v1/observe.pb.h"
#include "calib/v1/session.pb.h"

namespace calib::test {

// The server's side of synchronous steps as calib/v1/observe.proto has it, as plainly as can be: one session, no
// transport, no arithmetic, and a store that is a copy. What a rank gives for a step is a number, its token: the count
// of layer "a". A rank that names the layer "reference" too is asked to count: its counts must be its token again, on a
// grid that ends at the sum of all ranks' tokens. It can crash, and deadlines pass when it is told so.
class StepModelServer {
 public:
  struct Options {
    uint32_t world_size = 1;
    uint32_t window = 4;
    v1::StragglerPolicy policy = v1::STRAGGLER_POLICY_WAIT;
  };
  explicit StepModelServer(const Options& options) : options_(options) {
    durable_.world_size = state_.world_size = options.world_size;
  }

  // A new stream of the rank. Unset: the world has no such rank.
  std::optional<v1::Welcome> Open(uint32_t rank);
  void Close(uint32_t rank) { streams_.erase(rank); }
  // Takes the next message of the rank's stream.
  void Take(uint32_t rank, const v1::ObserveRequest& request);
  // The answers to the rank's stream, oldest first; taken by the caller.
  std::deque<v1::ObserveResponse>& answers(uint32_t rank) { return streams_.at(rank).answers; }

  // What is folded becomes durable, and open streams hear of it.
  void Checkpoint();
  void Crash();
  // The deadline of the lowest open step passes, if it has a contribution.
  void Expire();
  void SetWorld(uint32_t size);

  struct Folded {
    uint64_t epoch = 0;
    uint32_t world_size = 0;
    std::map<uint32_t, uint64_t> tokens;  // by rank
  };
  uint64_t folded_step() const { return state_.folded.size(); }
  uint64_t durable_step() const { return durable_.folded.size(); }
  const Folded& folded(uint64_t step) const { return state_.folded.at(step - 1); }
  uint64_t epoch() const { return state_.epoch; }
  uint32_t world_size() const { return state_.world_size; }
  // The first message that broke the rules; empty while there was none.
  const std::string& broken_rule() const { return broken_rule_; }

 private:
  struct State {
    std::vector<Folded> folded;  // step 1 first
    uint64_t epoch = 1;
    uint32_t world_size = 1;
  };
  struct Contribution {
    uint64_t token = 0;
    bool counts_wanted = false;
    bool counted = false;
    bool left_out = false;  // its counts came too late
  };
  struct OpenStep {
    std::map<uint32_t, Contribution> ranks;
    std::optional<double> grid_end;  // once counts were asked for
    bool closed = false;
  };
  struct Stream {
    std::vector<std::string> names;
    std::deque<v1::ObserveResponse> answers;
  };

  void TakeContribution(uint32_t rank, const v1::StepContribution& contribution);
  void TakeCounts(uint32_t rank, const v1::StepCounts& counts);
  void Answer(uint32_t rank, v1::ObserveResponse response);
  void Refuse(uint32_t rank, uint64_t step, v1::ErrorReason reason, uint64_t expected = 0);
  void SendResult(uint32_t rank, uint64_t step);
  void SendGrids(uint32_t rank, uint64_t step, const OpenStep& open);
  void Advance();
  void DropOpen(v1::ErrorReason reason);
  void BreakRule(const std::string& what);

  const Options options_;
  State state_;
  State durable_;
  std::map<uint64_t, OpenStep> open_;
  std::map<uint32_t, Stream> streams_;  // by rank
  std::string broken_rule_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_CLIENT_STEP_MODEL_SERVER_H_
