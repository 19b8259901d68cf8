#ifndef CALIB_QUANT_EXPECTED_ERROR_H_
#define CALIB_QUANT_EXPECTED_ERROR_H_

#include "quant/bin_model.h"
#include "quant/quant_spec.h"

namespace calib {

// What quantizing a set of values costs, predicted from its histogram. Sums, so that channels and layers add up.
struct ExpectedError {
  double count = 0;          // values
  double squared_error = 0;  // sum of (x - quantized x)^2
  double square_sum = 0;     // sum of x^2
  // Values more than half a step, up to float32 rounding (2^-22 relative), outside [scale (qmin - zp), scale (qmax -
  // zp)]; of FP8 half its last step.
  double saturated = 0;

  double mse() const { return count > 0 ? squared_error / count : 0; }
  // 10 log10(square_sum / squared_error); +infinity without error.
  double sqnr_db() const;
  // Share of saturated values.
  double clipped() const { return count > 0 ? saturated / count : 0; }

  void Add(const ExpectedError& other);
};

// Expected error of quantizing with these parameters; FP8's is off by 1e-15 of square_sum. O(bins beyond half a step).
// A zero point outside the codes is taken for the nearest one. REQUIRES: params.scale > 0.
ExpectedError EvaluateError(const BinModel& model, const QuantRules& rules, const QParams& params);

}  // namespace calib

#endif  // CALIB_QUANT_EXPECTED_ERROR_H_
