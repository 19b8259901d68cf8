#ifndef CALIB_SERVER_STORE_STEP_RECORD_H_
#define CALIB_SERVER_STORE_STEP_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "quant/quant_rules.h"

namespace calib::server {

// A synchronous step after it was folded: what its contributors are told. Immutable once made.
struct FoldedStep {
  // One channel: the step's extremes over all ranks, and the range that the observer holds after it; 0 without values.
  struct Row {
    float step_min = 0, step_max = 0;
    float min = 0, max = 0;

    friend bool operator==(const Row&, const Row&) = default;
  };
  struct LayerResult {
    std::string name;
    std::vector<Row> rows;                  // one a channel; none when ranks sent gradients alone
    std::vector<QParams> params;            // one, or one a channel; none without a value
    std::vector<float> learned_zero_point;  // as many as params, of a learned layer that has a value

    friend bool operator==(const LayerResult&, const LayerResult&) = default;
  };

  uint64_t step = 0;
  uint64_t world_epoch = 0;
  std::vector<bool> ranks;  // of the world, whether each was counted
  std::vector<LayerResult> layers;

  // Memory, itself included.
  size_t MemoryBytes() const;

  friend bool operator==(const FoldedStep&, const FoldedStep&) = default;
};

// What is kept of a session's synchronous steps. Open steps are not: ranks send them again.
struct StepsRecord {
  uint64_t world_epoch = 0;  // 0: the session has no synchronous steps
  uint32_t world_size = 0;
  uint64_t folded_step = 0;
  uint64_t partial_steps = 0;
  uint64_t failed_steps = 0;
  uint64_t late_contributions = 0;
  uint64_t repeated_contributions = 0;
  std::deque<std::shared_ptr<const FoldedStep>> kept;  // the last `window` ones, rising, to answer repetitions
};

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_STEP_RECORD_H_
