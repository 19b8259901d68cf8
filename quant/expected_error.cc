#include "quant/expected_error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/types/span.h"
#include "quant/code_error.h"

namespace calib {

double ExpectedError::sqnr_db() const {
  if (squared_error <= 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(square_sum / squared_error);
}

void ExpectedError::Add(const ExpectedError& other) {
  count += other.count;
  squared_error += other.squared_error;
  square_sum += other.square_sum;
  saturated += other.saturated;
}

ExpectedError EvaluateError(const BinModel& model, const QuantRules& rules, const QParams& params) {
  const double step = params.scale;
  ExpectedError error;
  error.count = model.count();
  error.square_sum = model.square_sum();
  double beyond_above, beyond_below;  // magnitudes above which values are saturated, in steps
  if (IsFloat8(rules.kind)) {
    const absl::Span<const double> numbers = Float8Numbers(rules.kind);
    beyond_above = beyond_below = numbers.back() + (numbers.back() - numbers[numbers.size() - 2]) / 2;
    error.squared_error = std::max(0.0, Float8SquaredError(model.positive(), rules.kind, step) +
                                            Float8SquaredError(model.negative(), rules.kind, step));
  } else {
    // A zero point that the framework does not clamp can be one code outside.
    const int64_t above = std::max<int64_t>(rules.qmax - params.zero_point, 0),
                  below = std::max<int64_t>(params.zero_point - rules.qmin, 0);
    beyond_above = static_cast<double>(above) + 0.5;
    beyond_below = static_cast<double>(below) + 0.5;
    error.squared_error = model.positive().SquaredError(step, above) + model.negative().SquaredError(step, below);
  }
  // Under a divisor of 127.5 the extremes lie exactly half a step outside: rounding the scale must not decide.
  const double rounded_step = step * (1 + 0x1p-22);
  error.saturated =
      model.positive().TailMass(beyond_above * rounded_step) + model.negative().TailMass(beyond_below * rounded_step);
  return error;
}

}  // namespace calib
