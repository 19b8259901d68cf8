#include "quant/method_spec.h"

#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace calib {
namespace {

constexpr absl::string_view kNames[] = {"minmax",  "percentile", "coverage", "mse",
                                        "entropy", "l2_greedy",  "lsq",      "lsq_plus"};  // by CalibrationMethod

}  // namespace

absl::string_view MethodName(CalibrationMethod method) { return kNames[static_cast<size_t>(method)]; }

absl::StatusOr<CalibrationMethod> ParseMethod(absl::string_view name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<CalibrationMethod>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown calibration method \"", name,
                   "\"; use minmax, percentile, coverage, mse, entropy, l2_greedy, lsq or lsq_plus"));
}

absl::Status CheckMethod(const MethodSpec& method) {
  // Written so that NaN fails too.
  if (method.method == CalibrationMethod::kPercentile && !(method.percentile > 0 && method.percentile <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("percentile is ", method.percentile, "; give a number above 0 and at most 100, such as 99.99"));
  }
  if (method.method == CalibrationMethod::kCoverage && !(method.coverage > 0 && method.coverage <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("coverage is ", method.coverage, "; give a share above 0 and at most 1, such as 0.9999"));
  }
  if (method.method == CalibrationMethod::kMse && !(method.norm >= 1 && method.norm <= 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("norm is ", method.norm, "; give a number from 1 to 8, such as 2 for the squared error"));
  }
  return absl::OkStatus();
}

absl::Status CheckMethodForSpec(const MethodSpec& method, const QuantSpec& spec) {
  const bool integers = spec.type.kind == CodeKind::kInteger || spec.type.kind == CodeKind::kAuto8;
  switch (method.method) {
    case CalibrationMethod::kEntropy:
    case CalibrationMethod::kL2Greedy:
      if (integers) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("method ", MethodName(method.method),
                                                     " counts equal steps, which ", spec.type.Name(),
                                                     " does not have; use minmax or mse"));
    case CalibrationMethod::kLsq:
    case CalibrationMethod::kLsqPlus:
      if (integers && spec.scheme == QuantScheme::kSymmetric) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("method ", MethodName(method.method),
                                                     " gives the scale of a symmetric integer quantizer; ask for the "
                                                     "symmetric scheme and an integer type"));
    default:
      return absl::OkStatus();
  }
}

bool NeedsHistogram(CalibrationMethod method) { return method != CalibrationMethod::kMinMax; }

}  // namespace calib
