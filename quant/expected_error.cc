#include "quant/expected_error.h"

#include <cmath>
#include <limits>

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
  const int64_t above = rules.qmax - params.zero_point, below = params.zero_point - rules.qmin;
  ExpectedError error;
  error.count = model.count();
  error.square_sum = model.square_sum();
  error.squared_error = model.positive().SquaredError(step, above) + model.negative().SquaredError(step, below);
  error.saturated = model.positive().TailMass((static_cast<double>(above) + 0.5) * step) +
                    model.negative().TailMass((static_cast<double>(below) + 0.5) * step);
  return error;
}

}  // namespace calib
