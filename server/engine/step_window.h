#ifndef CALIB_SERVER_ENGINE_STEP_WINDOW_H_
#define CALIB_SERVER_ENGINE_STEP_WINDOW_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "quant/observer_config.h"
#include "quant/reference_grid.h"
#include "server/engine/step_contribution.h"
#include "server/store/step_record.h"

namespace calib::server {

// A synchronous step to which ranks contribute.
struct OpenStep {
  enum class Stage {
    kContributing,  // waits for contributions
    kCounting,      // all contributions are in; waits for counts on `grids`
  };

  uint64_t step = 0;
  uint32_t world_size = 0;
  std::map<uint32_t, std::shared_ptr<StepContribution>> ranks;  // those that contributed
  // Of ranks that did not count their values by the deadline: not part of the step, but answered.
  std::map<uint32_t, std::shared_ptr<StepContribution>> left_out;
  Stage stage = Stage::kContributing;
  // When the stage's deadline began to run: at the first contribution, or with the counting. Unset: no contribution.
  std::optional<absl::Duration> since;
  bool closed = false;     // the deadline passed: what is missing is not waited for
  bool partial = false;    // it did so while contributions were missing
  bool regridded = false;  // `grids` are not the first ones: counts on older ones may be on their way
  // kCounting: the layers with a reference histogram, and the grids to count them on; of 0 bins when there is nothing
  // to count, for one that is switched off too, which is passed over then.
  std::unordered_map<const Layer*, ReferenceGrid> grids;
  std::unordered_set<const Layer*> passed_over;

  bool AllContributed() const { return ranks.size() == world_size; }
  bool IsAwaited() const;  // whether Missing() has any
  // Ranks from which something is awaited, rising.
  std::vector<uint32_t> Missing() const;
  ReferenceGrid GridOf(const Layer* layer) const;
};

// Which ranks contributed to which open steps, and what is due: membership, order, the window, deadlines and worlds. It
// knows nothing of what is folded. Times are on any clock that never goes back.
//
// Invariants. Steps fold in order: the lowest open step is folded_step + 1. At most `window` steps are open. A rank
// counts once in a step: of several contributions to an open step the last one stands.
//
// Guarded by its session's lock.
class StepWindow {
 public:
  // Goes on from `record`; a world of epoch 0 becomes the options' first.
  StepWindow(const SynchronousOptions& options, StepsRecord record);

  const SynchronousOptions& options() const { return options_; }
  const StepsRecord& record() const { return record_; }
  StepsRecord& mutable_record() { return record_; }

  // RANK_INVALID when the world has no such rank.
  absl::Status CheckRank(uint32_t rank) const;
  // What a contribution of the rank to the step would be.
  enum class Verdict {
    kNew,      // to an open step
    kAgain,    // to an open step that has one of this rank
    kCounted,  // to a folded step that counts one of this rank
    kLate,     // to a folded step that does not
  };
  // RANK_INVALID, WORLD_EPOCH_STALE, STEP_OUT_OF_WINDOW.
  absl::StatusOr<Verdict> Check(uint32_t rank, uint64_t world_epoch, uint64_t step) const;

  // Takes a contribution, in place of an earlier one. In the counting stage one that differs from the rank's earlier
  // one sends the step back to kContributing, without counts. REQUIRES: Check gave kNew or kAgain.
  void Take(uint32_t rank, uint64_t step, std::shared_ptr<StepContribution> contribution, absl::Duration now);

  // Leaves out those whose counts are awaited, and sends the step back to kContributing: grids are made of the ranges
  // of those that count. REQUIRES: the step is in stage kCounting.
  static void LeaveOutUncounted(OpenStep* open);

  // The step, if it is open and has been contributed to; else null.
  OpenStep* Find(uint64_t step);
  // The lowest open step, when some step is open (it may have no contribution itself); else null.
  OpenStep* Lowest();
  const OpenStep* Lowest() const { return const_cast<StepWindow*>(this)->Lowest(); }
  // A folded step that is kept; null if it isn't.
  std::shared_ptr<const FoldedStep> FindFolded(uint64_t step) const;

  // Removes the lowest open step, which was folded to `folded`. Returns it.
  OpenStep PopFolded(std::shared_ptr<const FoldedStep> folded);
  // Removes all open steps, whose contributions are dropped. Returns them.
  std::deque<OpenStep> DropOpen();
  // Begins a new world. REQUIRES: no step is open, 1 <= size.
  void SetWorld(uint32_t size);

  // Since when contributions have been waiting; unset: there are none.
  std::optional<absl::Duration> OpenSince() const;
  // When the lowest open step's deadline passes; unset: never.
  std::optional<absl::Duration> Deadline() const;

  // Memory that the contributions' counts take beside the rest, as they come and go with it.
  void AddBytes(StepContribution* contribution, size_t bytes);

  // Steps with a contribution, and the memory that they take.
  uint32_t open_steps() const;
  size_t bytes() const { return bytes_; }

 private:
  const SynchronousOptions options_;
  StepsRecord record_;
  std::deque<OpenStep> open_;  // from folded_step + 1 on, without gaps
  size_t bytes_ = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STEP_WINDOW_H_
