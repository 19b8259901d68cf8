#include "quant/methods/mse_search.h"

#include <algorithm>
#include <cmath>

#include "quant/expected_error.h"

namespace calib {

MseSearch::MseSearch(const BinModel& model, const QuantRules& rules, double norm)
    : model_(model),
      rules_(rules),
      squares_(norm == 2),
      norm_(rules.kind, norm, std::max(model.positive().greatest(), model.negative().greatest())),
      noise_(
          std::ldexp(squares_ ? model.square_sum() : norm_.Sum(model.positive()) + norm_.Sum(model.negative()), -44)),
      least_scale_(LeastScale(rules)),
      widest_(FullScale()) {}

double MseSearch::FullScale() {
  const double high = model_.positive().greatest(), low = model_.negative().greatest();
  if (!rules_.symmetric) {
    steps_ = rules_.qmax - rules_.qmin;
    return (high + low) / static_cast<double>(steps_);
  }
  const int64_t above = rules_.qmax - rules_.symmetric_zero_point, below = rules_.symmetric_zero_point - rules_.qmin;
  const double up = above > 0 ? high / static_cast<double>(above) : 0;
  const double down = below > 0 ? low / static_cast<double>(below) : 0;
  steps_ = up >= down ? above : below;
  return std::max(up, down);
}

double MseSearch::MostInside(double scale) const {
  double half_step = 0.5;
  if (IsFloat8(rules_.kind)) {
    const absl::Span<const double> numbers = Float8Numbers(rules_.kind);
    half_step = (numbers.back() - numbers[numbers.size() - 2]) / 2;
  }
  const double count = model_.positive().mass() + model_.negative().mass();
  if (squares_) return count * half_step * half_step * scale * scale;
  return count * std::pow(half_step * scale / std::max(model_.positive().greatest(), model_.negative().greatest()),
                          norm_.norm());
}

double MseSearch::Error(double scale, int64_t zero_point) const {
  const int64_t above = rules_.qmax - zero_point, below = zero_point - rules_.qmin;
  if (!squares_) {
    return norm_.Error(model_.positive(), scale, above) + norm_.Error(model_.negative(), scale, below);
  }
  if (IsFloat8(rules_.kind)) {
    return Float8SquaredError(model_.positive(), rules_.kind, scale) +
           Float8SquaredError(model_.negative(), rules_.kind, scale);
  }
  return model_.positive().FastSquaredError(scale, above) + model_.negative().FastSquaredError(scale, below);
}

MseSearch::Candidate MseSearch::Evaluate(double scale) const {
  Candidate candidate{scale, rules_.symmetric_zero_point};
  if (!rules_.symmetric) {
    candidate.zero_point = BestZeroPoint(scale);
    if (!squares_) candidate.zero_point = BestZeroPointOfNorm(scale, candidate.zero_point);
  }
  candidate.error = std::max(Error(scale, candidate.zero_point), noise_);
  return candidate;
}

double MseSearch::Judge(const QParams& params) const {
  if (squares_) return EvaluateError(model_, rules_, params).squared_error;
  return Error(params.scale, std::clamp(params.zero_point, rules_.qmin, rules_.qmax));
}

// Each level more above zero lowers the error by 2 s G, and by less than the level before it, while it takes one from
// below: the error is convex in the number of levels above, so the best split is where the two gains cross.
int64_t MseSearch::BestZeroPoint(double scale) const {
  int64_t above = 0, end = steps_;
  while (above < end) {
    const int64_t middle = above + (end - above) / 2;
    const double gain = model_.positive().TailExcess((static_cast<double>(middle) + 0.5) * scale);
    const double loss = model_.negative().TailExcess((static_cast<double>(steps_ - middle) - 0.5) * scale);
    if (gain > loss) {
      above = middle + 1;
    } else {
      end = middle;
    }
  }
  return rules_.qmax - above;
}

// Convex for every norm from 1 on, for the same reason: downhill from the start in growing strides, then in halves.
int64_t MseSearch::BestZeroPointOfNorm(double scale, int64_t start) const {
  int64_t best = start;
  double least = Error(scale, start);
  for (const int64_t direction : {1, -1}) {
    int64_t stride = 1;
    bool growing = true;
    while (stride > 0) {
      const int64_t next = best + direction * stride;
      const double error =
          next >= rules_.qmin && next <= rules_.qmax ? Error(scale, next) : std::numeric_limits<double>::infinity();
      if (error < least) {
        best = next;
        least = error;
      } else {
        growing = false;
      }
      stride = growing ? stride * 2 : stride / 2;
    }
    if (best != start) break;
  }
  return best;
}

}  // namespace calib
