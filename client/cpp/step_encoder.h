#ifndef CALIB_CLIENT_CPP_STEP_ENCODER_H_
#define CALIB_CLIENT_CPP_STEP_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/cpp/step_log.h"
#include "client/cpp/sync_worker.h"
#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"

namespace calib::client {

// Makes contributions of what callers give: observes tensors, and writes all columns. Not thread-safe; keeps about a
// megabyte of working memory.
class StepEncoder {
 public:
  // `infos[i]` is of `layers[i]`. Errors: as TensorObserver::Observe; INVALID_FIELD (a layer twice, gradients of
  // unequal lengths or none, a weight that is not above 0); OBSERVER_MISMATCH (gradients of a layer that is not
  // LEARNED).
  absl::StatusOr<EncodedStep> Encode(absl::Span<const StepLayer> layers,
                                     absl::Span<const std::shared_ptr<const StepLayerInfo>> infos, double weight);

  // Values, finite or not, of the tensors encoded last.
  uint64_t values() const { return values_; }

 private:
  // Indices of the layers that are not left out: tensors, then gradients, each in rising layer number.
  absl::Status Order(absl::Span<const StepLayer> layers, absl::Span<const std::shared_ptr<const StepLayerInfo>> infos);

  TensorObserver observer_;
  StatisticsWriter writer_;
  std::vector<size_t> order_;
  uint64_t values_ = 0;
};

// Counts the values on the grids: a StepCounts. INTERNAL when a grid is none.
absl::StatusOr<std::shared_ptr<v1::ObserveRequest>> CountStep(const StepLog::CountJob& job);

// The result as the caller of a contribution reads it. INTERNAL when it does not fit the contribution.
absl::StatusOr<StepResult> DecodeStepResult(const std::shared_ptr<const v1::StepResult>& message,
                                            const StepLayout& layout);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_STEP_ENCODER_H_
