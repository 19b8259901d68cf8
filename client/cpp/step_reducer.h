#ifndef CALIB_CLIENT_CPP_STEP_REDUCER_H_
#define CALIB_CLIENT_CPP_STEP_REDUCER_H_

#include <map>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cpp/client.h"
#include "quant/observe.h"
#include "quant/reference_histogram.h"
#include "quant/step.h"

namespace calib::client {

// Reduces tensors of layers whose observer depends on order to steps, as the server would. A reference histogram's next
// grid follows from all steps before, so it keeps a replica of each, which begins with what the server has: right as
// long as one worker alone feeds the layer, else the server refuses the step with REFERENCE_GRID_MISMATCH. Not
// thread-safe.
class StepReducer {
 public:
  // Takes a step; what it refuses does not become part of the replica.
  using Taker = absl::FunctionRef<absl::Status(const Step& step)>;

  // Reduces `tensor` and passes it to `take`. Errors: as TensorObserver::Observe; REFERENCE_TOO_LARGE; those of asking
  // the server for a layer's state, at the layer's first step; those of `take`.
  absl::Status Reduce(Client* client, const std::string& session, absl::string_view layer,
                      const ObserverConfig& observer, const TensorView& tensor, Taker take);

 private:
  TensorObserver observer_;
  std::map<std::string, ReferenceHistogram, std::less<>> replicas_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_STEP_REDUCER_H_
