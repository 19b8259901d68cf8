#ifndef CALIB_SERVER_ENGINE_STEP_CONTRIBUTION_H_
#define CALIB_SERVER_ENGINE_STEP_CONTRIBUTION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "quant/layer_statistics.h"
#include "quant/learned_state.h"
#include "quant/range.h"
#include "quant/reference_grid.h"
#include "server/engine/layer.h"

namespace calib::server {

// A rank's part of a synchronous step, decoded and owned. Layers are those of the session, which outlive it.
struct StepContribution {
  // What the rank observed of one layer.
  struct Observed {
    Layer* layer = nullptr;
    std::vector<Range> ranges;                 // one a channel
    std::optional<LayerStatistics> histogram;  // of a layer that collects histograms

    friend bool operator==(const Observed&, const Observed&) = default;
  };
  // Gradients of one learned layer.
  struct Gradients {
    Layer* layer = nullptr;
    uint64_t elements = 0;
    std::vector<LearnedGradient> sums;  // one a channel

    friend bool operator==(const Gradients&, const Gradients&) = default;
  };

  uint32_t worker = 0;               // ordinal
  uint64_t incarnation = 0;          // of the stream that sent it, and alone can read the answer
  size_t bytes = 0;                  // memory that it takes
  bool has_references = false;       // a layer has a reference histogram
  std::vector<Observed> observed;    // each layer once, in the message's order
  std::vector<Gradients> gradients;  // likewise, none that is in `observed`
  double weight = 1;                 // of the gradients
  // Counts of the layers with a reference histogram, in the order of `observed`; unset until they came.
  std::optional<std::vector<std::vector<uint64_t>>> counts;

  // Whether the rank gave the same, apart from counts.
  bool SameData(const StepContribution& other) const {
    return observed == other.observed && gradients == other.gradients && weight == other.weight;
  }
  // Whether it has the same layers in the same order.
  bool SameLayers(const StepContribution& other) const;
  // Memory, itself included.
  size_t MemoryBytes() const;
  // Values that it holds, finite or not; 2^64 - 1 when they are more.
  uint64_t Values() const;
};

// A contribution as it comes in, before its layers are looked up.
struct StepUpdate {
  uint64_t world_epoch = 0;
  uint64_t step = 0;
  std::vector<LayerBinding*> bindings;  // of `observed`, then of `gradients`
  StepContribution contribution;        // whose layers are null
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STEP_CONTRIBUTION_H_
