#ifndef CALIB_QUANT_CALIBRATE_H_
#define CALIB_QUANT_CALIBRATE_H_

#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/expected_error.h"
#include "quant/layer_statistics.h"
#include "quant/method_spec.h"
#include "quant/quant_spec.h"

namespace calib {

// Quantization parameters of one layer. Vectors have one entry, or one a channel.
struct LayerQParams {
  std::vector<QParams> params;
  std::vector<ClipRange> clip;  // what the method chose
  // As asked for, with auto8 resolved; of a passive layer with its own granularity; of a learned layer its own.
  QuantSpec spec;
  QuantRules rules;
  Range range;                         // of the whole layer
  std::optional<ExpectedError> error;  // of the whole layer; unset without a histogram
};

// Statistics to qparams. A channel without finite values gets the parameters of the range [0, 0] when other channels
// have data.
//
// Of a passive layer the parameters are those that were set, of a learned layer those that are learned, of the spec
// that they are learned for; whatever the method.
//
// The preset's scale floor does not hold for method mse unless all values are zero: a floor would undo the search.
//
// INVALID_ARGUMENT: a malformed method or spec. FAILED_PRECONDITION: no finite value in the layer, or none that it
// could learn from; a method that needs a histogram where there is none; per-channel parameters of a layer observed per
// tensor. CheckCalibrate tells them apart. OUT_OF_RANGE: the channels' counts add up to 2^64 or more. CANCELLED:
// `abandoned`, which is asked before each channel, said so.
absl::StatusOr<LayerQParams> Calibrate(const LayerStatistics& statistics, const MethodSpec& method,
                                       const QuantSpec& spec, const std::function<bool()>& abandoned = {});

// The parameters that Calibrate gives for method minmax, without the rest; none where it would fail. Cheap:
// O(channels).
std::vector<QParams> MinMaxParams(const LayerStatistics& statistics, const QuantSpec& spec);

// Why Calibrate would fail.
enum class CalibrateError { kNone, kMethodInvalid, kSpecInvalid, kLayerEmpty, kNeedsHistogram, kNotPerChannel };
CalibrateError CheckCalibrate(const LayerStatistics& statistics, const MethodSpec& method, const QuantSpec& spec);

}  // namespace calib

#endif  // CALIB_QUANT_CALIBRATE_H_
