#ifndef CALIB_SERVER_ENGINE_STEP_MESSAGES_H_
#define CALIB_SERVER_ENGINE_STEP_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "calib/v1/observe.pb.h"
#include "server/engine/step_window.h"
#include "server/store/step_record.h"

namespace calib::server {

// Messages about synchronous steps, in the order of the receiving rank's contribution. Immutable: one may go to many.
using StepMessage = std::shared_ptr<const v1::ObserveResponse>;

// A layer of a contribution, as its answer needs it.
struct AnsweredLayer {
  absl::string_view name;
  size_t rows = 0;  // of statistics; 0: it sent gradients
};
std::vector<AnsweredLayer> AnsweredLayers(const StepContribution& contribution);

// Layers that are not in `folded` have zeros, and no parameters.
StepMessage MakeStepResult(const FoldedStep& folded, absl::Span<const AnsweredLayer> layers, bool counted);
// REQUIRES: the step is in the counting stage.
StepMessage MakeStepGrids(const OpenStep& step, const StepContribution& contribution, uint64_t world_epoch);
StepMessage MakeStepRefusal(uint64_t step, const absl::Status& status);
StepMessage MakeWorld(const StepsRecord& record);

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STEP_MESSAGES_H_
