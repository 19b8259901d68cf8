#include "quant/methods/mse_search.h"

#include <algorithm>
#include <cmath>

#include "absl/types/span.h"

namespace calib {

MseSearch::MseSearch(const BinModel& model, const QuantRules& rules, double norm)
    : model_(model),
      rules_(rules),
      has_positive_(!rules.symmetric || rules.qmax > rules.symmetric_zero_point),
      has_negative_(!rules.symmetric || rules.qmin < rules.symmetric_zero_point),
      norm_(norm),
      amplitude_(
          std::max(has_positive_ ? model.positive().greatest() : 0, has_negative_ ? model.negative().greatest() : 0)),
      least_scale_(LeastScale(rules)),
      widest_(FullScale()) {
  if (!squares() && amplitude_ > 0) {
    positive_.emplace(model.positive(), rules.kind, norm, amplitude_);
    negative_.emplace(model.negative(), rules.kind, norm, amplitude_);
  }
  // Without an amplitude there is nothing to err about, and no table of the norm.
  const double signal =
      amplitude_ > 0 ? Sum([&](bool up) { return squares() ? SideOf(up).square_sum() : NormOf(up).sum(); }) : 0;
  noise_ = std::ldexp(signal, -44);
}

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
  const double count = Sum([&](bool up) { return SideOf(up).mass(); });
  if (squares()) return count * half_step * half_step * scale * scale;
  return count * std::pow(half_step * scale / amplitude_, norm_);
}

double MseSearch::Error(double scale, int64_t zero_point) const {
  const int64_t above = rules_.qmax - zero_point, below = zero_point - rules_.qmin;
  return Sum([&](bool up) {
    if (!squares()) return NormOf(up).Error(scale, up ? above : below);
    if (IsFloat8(rules_.kind)) return Float8SquaredError(SideOf(up), rules_.kind, scale);
    return SideOf(up).FastSquaredError(scale, up ? above : below);
  });
}

MseSearch::Candidate MseSearch::Evaluate(double scale) const {
  Candidate candidate{scale, rules_.symmetric_zero_point};
  if (!rules_.symmetric) {
    candidate.zero_point = BestZeroPoint(scale);
    if (!squares()) candidate.zero_point = BestZeroPointOfNorm(scale, candidate.zero_point);
  }
  candidate.error = std::max(Error(scale, candidate.zero_point), noise_);
  return candidate;
}

double MseSearch::Judge(const QParams& params) const {
  const int64_t zero_point = std::clamp(params.zero_point, rules_.qmin, rules_.qmax);
  if (!squares()) return Error(params.scale, zero_point);
  if (IsFloat8(rules_.kind)) return std::max(0.0, Error(params.scale, zero_point));
  return Sum([&](bool up) {
    return SideOf(up).SquaredError(params.scale, up ? rules_.qmax - zero_point : zero_point - rules_.qmin);
  });
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

bool MseSearch::OneMoreAbove(double scale, int64_t above) const {
  return positive_->Gain(scale, above) > negative_->Gain(scale, steps_ - above - 1);
}

// Convex for every norm from 1 on, for the same reason. The best split is not far from that of the squares: from there
// in growing strides until it is passed, then by bisection.
int64_t MseSearch::BestZeroPointOfNorm(double scale, int64_t start) const {
  int64_t least = 0, greatest = steps_;  // the best number of levels above is in between
  for (int64_t at = std::min(rules_.qmax - start, steps_ - 1), stride = 1; least < greatest; stride *= 2) {
    if (OneMoreAbove(scale, at)) {
      least = at + 1;
      if (greatest < steps_) break;
      at = std::min(at + stride, steps_ - 1);
    } else {
      greatest = at;
      if (least > 0) break;
      at = std::max<int64_t>(at - stride, 0);
    }
  }
  while (least < greatest) {
    const int64_t middle = least + (greatest - least) / 2;
    if (OneMoreAbove(scale, middle)) {
      least = middle + 1;
    } else {
      greatest = middle;
    }
  }
  return rules_.qmax - least;
}

}  // namespace calib
