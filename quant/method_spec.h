#ifndef CALIB_QUANT_METHOD_SPEC_H_
#define CALIB_QUANT_METHOD_SPEC_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quant/quant_spec.h"

namespace calib {

// How the clip range is chosen.
enum class CalibrationMethod : uint8_t {
  kMinMax,
  kPercentile,
  kCoverage,
  kMse,
  kEntropy,
  kL2Greedy,
  kLsq,      // the initial scale of learned step size quantization, see learned.h
  kLsqPlus,  // that of LSQ+
};

// Whose entropy calibration.
enum class EntropyVariant : uint8_t {
  kMxnet,     // Apache MXNet 1.9 calibrate_entropy
  kTensorrt,  // NVIDIA pytorch-quantization calib/histogram.py, the published form of TensorRT's
};

// "minmax", "percentile", "coverage", "mse", "entropy", "l2_greedy", "lsq", "lsq_plus".
absl::string_view MethodName(CalibrationMethod method);
// INVALID_ARGUMENT names what there is.
absl::StatusOr<CalibrationMethod> ParseMethod(absl::string_view name);

// A method and its parameters.
struct MethodSpec {
  CalibrationMethod method = CalibrationMethod::kMinMax;
  double percentile = 99.99;  // kPercentile: per cent of values inside, in (0, 100]
  // kPercentile, affine: cut only above (the p-th percentile of x), instead of the same share on both sides.
  bool one_sided = false;
  double coverage = 0.9999;                                 // kCoverage: share of values kept, in (0, 1]
  double norm = 2;                                          // kMse: the error is |x - quantized x|^norm, norm in [1, 8]
  EntropyVariant entropy_variant = EntropyVariant::kMxnet;  // kEntropy

  friend bool operator==(const MethodSpec&, const MethodSpec&) = default;
};

// INVALID_ARGUMENT when a parameter is outside its range or not a number.
absl::Status CheckMethod(const MethodSpec& method);
// INVALID_ARGUMENT when the method has no answer for such codes: entropy, l2_greedy, lsq and lsq_plus for other than
// integers, the latter two for an affine scheme.
absl::Status CheckMethodForSpec(const MethodSpec& method, const QuantSpec& spec);
// Whether the method reads a histogram, not only a Range.
bool NeedsHistogram(CalibrationMethod method);

}  // namespace calib

#endif  // CALIB_QUANT_METHOD_SPEC_H_
