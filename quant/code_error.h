#ifndef CALIB_QUANT_CODE_ERROR_H_
#define CALIB_QUANT_CODE_ERROR_H_

#include <array>
#include <cstdint>

#include "quant/bin_model.h"
#include "quant/quant_type.h"

namespace calib {

// Sum of squared error of one side of a BinModel when its values go to the nearest of step times the FP8 numbers. From
// G, the side's TailExcess, with r the numbers and m the middles between them: sum x^2 - 2 step sum_k (r_k - r_(k-1))
// G(m_k step). Its error is about 1e-15 of the side's square_sum(), so it may be below zero by as much. O(numbers).
// REQUIRES: IsFloat8(kind), step > 0.
double Float8SquaredError(const BinModel::Side& side, CodeKind kind, double step);

// Sums of |x - quantized x|^norm of one side of a BinModel. Makes its tables once. Immutable.
class NormError {
 public:
  // Sums are in units of unit^norm, so that values around FLT_MAX don't overflow: best the greatest magnitude. norm in
  // [1, 8]; kind is not kAuto8; unit > 0.
  NormError(CodeKind kind, double norm, double unit);

  double norm() const { return norm_; }
  // The side has the codes' values 0, step, ..., levels * step, or step times the FP8 numbers (levels is not read).
  // Relative error about 1e-12. O(bins). REQUIRES: step > 0, levels >= 0.
  double Error(const BinModel::Side& side, double step, int64_t levels) const;
  // Sum of |x|^norm.
  double Sum(const BinModel::Side& side) const;

 private:
  static constexpr size_t kMostNumbers = 128;

  // The number nearest to y, in steps, and its place among the numbers.
  struct Rounded {
    double number;
    double place;
  };

  Rounded Round(double y, double levels) const;
  // The sum over whole gaps between numbers below the one at this place of the integral of |distance|^norm, in steps.
  double WholeGaps(double place) const;

  CodeKind kind_;
  double norm_;
  double unit_;
  std::array<double, kMostNumbers> whole_gaps_ = {};  // of FP8
};

}  // namespace calib

#endif  // CALIB_QUANT_CODE_ERROR_H_
