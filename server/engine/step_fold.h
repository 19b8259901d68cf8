#ifndef CALIB_SERVER_ENGINE_STEP_FOLD_H_
#define CALIB_SERVER_ENGINE_STEP_FOLD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/layer_statistics.h"
#include "quant/learned_state.h"
#include "quant/range.h"
#include "quant/step.h"
#include "server/engine/layer.h"
#include "server/engine/step_window.h"
#include "server/store/step_record.h"

namespace calib::server {

// One step reduced over its ranks, in rank order, so that contributions' order of arrival decides nothing: what one
// process would have observed of the union of their tensors. Layers are in the order in which they come up, rank by
// rank.
//
// Lives under the lock of the layers' session.
class StepFold {
 public:
  // Reduces what there is; counts of reference histograms too, once they are there. COUNT_OVERFLOW,
  // OBSERVER_MISMATCH, naming the layer.
  static absl::StatusOr<StepFold> Reduce(const OpenStep& step);

  // Sets the grids of the layers with a reference histogram that take part; those that are switched off are passed over
  // from now on. REFERENCE_TOO_LARGE, naming the layer.
  absl::Status MakeGrids(OpenStep* step) const;

  // Whether all layers can take the step in; layers that are switched off are passed over. CHANNEL_COUNT_CHANGED,
  // COUNT_OVERFLOW, REFERENCE_TOO_LARGE, REFERENCE_GRID_MISMATCH, HISTOGRAM_INVALID, LEARNED_NOT_INITIALIZED.
  absl::Status Check() const;
  // Takes it in. REQUIRES: Check() passed. Returns what contributors are told; sets `changed` to the layers that took
  // something in, and `ignored` to the values of those that are switched off.
  std::shared_ptr<const FoldedStep> Apply(const OpenStep& step, uint64_t world_epoch, std::vector<Layer*>* changed,
                                          uint64_t* ignored) const;

 private:
  struct Reduced {
    Layer* layer = nullptr;
    bool passed_over = false;                  // was switched off when grids were made
    Step step;                                 // ranges of all ranks; grid and counts of a reference histogram
    std::optional<LayerStatistics> histogram;  // of a layer that collects histograms
    // Of all ranks that sent gradients; none did when it is empty.
    std::vector<LearnedGradient> gradients;
    uint64_t elements = 0;
    double weight = 0;
  };

  static absl::Status AddObserved(const StepContribution::Observed& observed, const std::vector<uint64_t>* counts,
                                  const OpenStep& step, Reduced* reduced);
  static void AddGradients(const StepContribution::Gradients& gradients, double weight, Reduced* reduced);
  static std::vector<LearnedGradient> Average(const Reduced& reduced);
  // What a layer whose statistics merge takes in.
  static LayerStatistics Merged(const Reduced& reduced);

  std::vector<Reduced> layers_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STEP_FOLD_H_
