#ifndef CALIB_QUANT_CODE_ERROR_H_
#define CALIB_QUANT_CODE_ERROR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "quant/bin_model.h"
#include "quant/quant_type.h"

namespace calib {

// Sum of squared error of one side of a BinModel when its values go to the nearest of step times the FP8 numbers. From
// G, the side's TailExcess, with r the numbers and m the middles between them: sum x^2 - 2 step sum_k (r_k - r_(k-1))
// G(m_k step). Its error is about 1e-15 of the side's square_sum(), so it may be below zero by as much. O(numbers).
// REQUIRES: IsFloat8(kind), step > 0.
double Float8SquaredError(const BinModel::Side& side, CodeKind kind, double step);

// Sums of |x - quantized x|^norm of one side of a BinModel, for any norm. Borrows the side; makes its tables once,
// after that it allocates nothing and is immutable.
//
// Inside a bin that is uniform from a to b with mass M, a number r contributes M / (b - a) times the integral of
// |x - r|^norm over its part of the bin, whose antiderivative is sign(x - r) |x - r|^(norm + 1) / (norm + 1).
class NormError {
 public:
  // Sums are in units of unit^norm, so that values around FLT_MAX don't overflow: best the greatest magnitude. norm in
  // [1, 8]; kind is not kAuto8; unit > 0.
  NormError(const BinModel::Side& side, CodeKind kind, double norm, double unit);

  // Sum of |x|^norm.
  double sum() const { return below_.back(); }
  // The side has the codes' values 0, step, ..., levels * step, or step times the FP8 numbers (levels is not read).
  // Relative error about 1e-6, from tables. O(bins beyond step / 2). REQUIRES: step > 0, levels >= 0.
  double Error(double step, int64_t levels) const;
  // How much less Error() is with one level more; never more than with one level less. O(bins beyond levels * step).
  // REQUIRES: kind is kInteger.
  double Gain(double step, int64_t levels) const;

 private:
  // Powers are read off a table by cubic interpolation; beyond it they are computed.
  static constexpr size_t kIntervals = 128;
  static constexpr size_t kMostNumbers = 128;
  struct Knot {
    double value;
    double slope;  // times the width of an interval
  };

  // sign(d) |d|^(norm + 1) / (norm + 1).
  double Antiderivative(double distance) const;
  // The same for |d| <= 1/2, from the table.
  double SmallAntiderivative(double distance) const;
  // The integral from 0 to y of |distance to the nearest number|^norm, all in steps.
  double IntegerIntegral(double y, double levels) const;
  double Float8Integral(double y) const;
  // Distance from y to the nearest number.
  double Distance(double y, double levels) const;

  const BinModel::Side& side_;
  CodeKind kind_;
  double norm_;
  double unit_;
  double whole_gap_;           // the integral between neighbouring integers
  std::vector<double> below_;  // [i]: sum of |x|^norm over the bins before i, in units
  std::array<Knot, kIntervals + 1> table_;
  std::array<double, kMostNumbers> whole_gaps_ = {};  // of FP8: the integral from 0 to this number
  std::array<double, kMostNumbers> gap_powers_ = {};  // of FP8: (gap below this number)^(norm + 1)
};

}  // namespace calib

#endif  // CALIB_QUANT_CODE_ERROR_H_
