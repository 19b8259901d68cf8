#ifndef CALIB_QUANT_METHODS_MSE_SEARCH_H_
#define CALIB_QUANT_METHODS_MSE_SEARCH_H_

#include <cstdint>
#include <limits>
#include <optional>

#include "quant/bin_model.h"
#include "quant/code_error.h"
#include "quant/quant_rules.h"

namespace calib {

// Evaluates scales on one model, for MseRange. Errors are sums of |x - quantized x|^norm, squares in units of 1, other
// norms in units of the greatest magnitude to that power. A side of zero without codes is in no error: it costs the
// same whatever the scale. Borrows both; allocates when made only; immutable.
class MseSearch {
 public:
  // A scale, the best zero point with it, and what they cost.
  struct Candidate {
    double scale = 0;
    int64_t zero_point = 0;
    double error = std::numeric_limits<double>::infinity();
  };

  // REQUIRES: some value is not zero.
  MseSearch(const BinModel& model, const QuantRules& rules, double norm);

  // The greatest magnitude on a side with codes.
  double amplitude() const { return amplitude_; }
  // What rounding a scale to float32 can make, which is no difference.
  double noise() const { return noise_; }
  // The scale at which the codes just reach from min to max; 0 when no code can reach any value.
  double widest() const { return widest_; }
  // The least scale that the rules let through.
  double least_scale() const { return least_scale_; }
  // Steps from zero to the end that decides widest(), or from end to end when affine; the greatest number of FP8.
  int64_t steps() const { return steps_; }

  // The scale with its best zero point. No less than noise().
  Candidate Evaluate(double scale) const;
  // The most that values inside the codes' range can cost.
  double MostInside(double scale) const;
  // The error of parameters as they are.
  double Judge(const QParams& params) const;

 private:
  bool squares() const { return norm_ == 2; }
  const BinModel::Side& SideOf(bool up) const { return up ? model_.positive() : model_.negative(); }
  const NormError& NormOf(bool up) const { return up ? *positive_ : *negative_; }
  // Over the sides that have codes; `term` is told whether it is the positive one.
  template <typename Term>
  double Sum(const Term& term) const {
    return (has_positive_ ? term(true) : 0) + (has_negative_ ? term(false) : 0);
  }
  double FullScale();
  // Error of a scale and zero point, quickly.
  double Error(double scale, int64_t zero_point) const;
  // Where the squared error is least, or the error of the norm.
  int64_t BestZeroPoint(double scale) const;
  int64_t BestZeroPointOfNorm(double scale, int64_t start) const;
  // Whether the norm's error falls when one level more is above zero, and one less below.
  bool OneMoreAbove(double scale, int64_t above) const;

  const BinModel& model_;
  const QuantRules& rules_;
  bool has_positive_, has_negative_;  // codes on that side of zero
  double norm_;
  double amplitude_;
  std::optional<NormError> positive_, negative_;  // for other norms than 2
  double noise_;
  double least_scale_;
  int64_t steps_ = 0;
  double widest_;
};

}  // namespace calib

#endif  // CALIB_QUANT_METHODS_MSE_SEARCH_H_
