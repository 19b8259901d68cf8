#ifndef CALIB_SERVER_EXPORT_QDQ_WEIGHT_CALIBRATION_H_
#define CALIB_SERVER_EXPORT_QDQ_WEIGHT_CALIBRATION_H_

#include <cstdint>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/method_spec.h"
#include "quant/quant_spec.h"
#include "server/export/qdq/tensor_quantization.h"

namespace calib::server {

// SPEC_INVALID when no weight can be calibrated so.
absl::Status CheckWeightSpec(const MethodSpec& method, const QuantSpec& spec);

// The parameters of a weight by its own values, those that Calibrate (quant/calibrate.h) gives for all of them: per
// channel along `axis` when the spec wants that and the axis is set, else per tensor. One channel's statistics are
// held at a time. NOT_EXPORTABLE: the type has no ONNX type. CANCELLED: `abandoned`, asked before each channel, said
// so.
// REQUIRES: CheckWeightSpec(method, spec).ok(); `values`, finite and not empty, fill `dims`; 0 <= axis < dims.size().
absl::StatusOr<TensorQuantization> CalibrateWeight(absl::Span<const float> values, absl::Span<const int64_t> dims,
                                                   std::optional<int> axis, const MethodSpec& method,
                                                   const QuantSpec& spec, const std::function<bool()>& abandoned = {});

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_WEIGHT_CALIBRATION_H_
