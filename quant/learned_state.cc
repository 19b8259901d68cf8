#include "quant/learned_state.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "quant/learned.h"
#include "quant/rounding.h"

namespace calib {
namespace {

constexpr float kGreatestFloat = std::numeric_limits<float>::max();

absl::Status CheckPositive(absl::string_view name, double value) {
  if (value > 0 && value <= kGreatestFloat && static_cast<float>(value) > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be above 0 and finite, in float32"));
}

// Moments are float32, in which the greatest double below 1 is 1.
absl::Status CheckDecay(absl::string_view name, double value) {
  if (value >= 0 && value < 1 && static_cast<float>(value) < 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be in [0, 1), in float32"));
}

absl::Status CheckOptimizer(const LearnedOptions& options) {
  if (absl::Status status = CheckPositive("learning_rate", options.learning_rate); !status.ok()) return status;
  if (options.optimizer == LearnedOptimizer::kSgd) return CheckDecay("momentum", options.momentum);
  if (absl::Status status = CheckDecay("beta1", options.beta1); !status.ok()) return status;
  if (absl::Status status = CheckDecay("beta2", options.beta2); !status.ok()) return status;
  return CheckPositive("epsilon", options.epsilon);
}

// Keeps what overflowed from becoming NaN later.
float Saturated(float x) { return std::clamp(x, -kGreatestFloat, kGreatestFloat); }

float ClampScale(const QuantRules& rules, float scale) {
  return std::clamp(scale, LearnedScaleFloor(rules), kGreatestFloat);
}

float ZeroPointOf(const QuantRules& rules, float zero_point) {
  if (rules.symmetric) return static_cast<float>(rules.symmetric_zero_point);
  return std::clamp(zero_point, static_cast<float>(rules.qmin), static_cast<float>(rules.qmax));
}

// False for NaN.
bool IsWithin(float x, float least, float greatest) { return x >= least && x <= greatest; }

// Whether an optimizer can keep these; `stepped`: after gradients.
bool CanBe(const LearnedOptions& options, bool stepped, const LearnedMoments& moments) {
  const bool adam = options.optimizer == LearnedOptimizer::kAdam;
  const float most = stepped && (adam || options.momentum != 0) ? kGreatestFloat : 0;
  return IsWithin(moments.first, -most, most) && IsWithin(moments.second, 0, adam ? most : 0);
}

}  // namespace

double DefaultLearningRate(LearnedOptimizer optimizer) { return optimizer == LearnedOptimizer::kSgd ? 0.01 : 0.001; }

MethodSpec DefaultLearnedInitial(QuantScheme scheme) {
  return {.method = scheme == QuantScheme::kSymmetric ? CalibrationMethod::kLsq : CalibrationMethod::kMinMax};
}

absl::Status CheckLearnedSpec(const QuantSpec& spec) {
  if (spec.type.kind != CodeKind::kInteger) {
    return absl::InvalidArgumentError(
        absl::StrCat("a learned quantizer has integer codes of one type, not ", spec.type.Name()));
  }
  if (spec.power_of_two_scale) {
    return absl::InvalidArgumentError("a learned scale is any number; power_of_two_scale is not possible");
  }
  const absl::StatusOr<QuantRules> rules = ResolveSpec(spec);
  if (!rules.ok()) return rules.status();
  if (rules->qmin < -kGreatestLearnedCode || rules->qmax > kGreatestLearnedCode || rules->qmax <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a learned quantizer's codes are within +-2^24, the greatest above 0, and not from ", rules->qmin,
                     " to ", rules->qmax));
  }
  return absl::OkStatus();
}

absl::Status CheckLearnedOptions(const LearnedOptions& options) {
  if (absl::Status status = CheckOptimizer(options); !status.ok()) return status;
  if (absl::Status status = CheckLearnedSpec(options.spec); !status.ok()) return status;
  if (absl::Status status = CheckMethod(options.initial); !status.ok()) return status;
  return CheckMethodForSpec(options.initial, options.spec);
}

QParams LearnedState::Params() const { return {scale, static_cast<int64_t>(RoundHalfEven(zero_point))}; }

float LearnedScaleFloor(const QuantRules& rules) {
  return std::max(rules.scale_floor, std::numeric_limits<float>::min());
}

LearnedState InitialLearnedState(const QuantRules& rules, const QParams& params) {
  LearnedState state;
  state.scale = ClampScale(rules, params.scale);
  state.zero_point = ZeroPointOf(rules, static_cast<float>(params.zero_point));
  return state;
}

absl::Status CheckLearnedState(const LearnedOptions& options, const LearnedState& state) {
  const QuantRules rules = *ResolveSpec(options.spec);
  if (!IsWithin(state.scale, LearnedScaleFloor(rules), kGreatestFloat)) {
    return absl::InvalidArgumentError(absl::StrCat("no scale is learned to be ", state.scale));
  }
  const float least = ZeroPointOf(rules, static_cast<float>(rules.qmin));
  const float greatest = ZeroPointOf(rules, static_cast<float>(rules.qmax));
  if (!IsWithin(state.zero_point, least, greatest)) {
    return absl::InvalidArgumentError(absl::StrCat("no zero point is learned to be ", state.zero_point));
  }
  const bool stepped = state.steps > 0;
  if (CanBe(options, stepped, state.scale_moments) &&
      CanBe(options, stepped && !rules.symmetric, state.zero_point_moments)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("after ", state.steps, " steps no optimizer of this kind has such averages"));
}

LearnedStep::LearnedStep(const LearnedOptions& options, const QuantRules& rules, double grad_factor, uint64_t steps)
    : options_(options), rules_(rules), grad_factor_(grad_factor), first_(steps == 0) {
  if (options.optimizer != LearnedOptimizer::kAdam) return;
  const double step = static_cast<double>(steps) + 1;
  const double correction = 1 - std::pow(options.beta1, step), square_correction = 1 - std::pow(options.beta2, step);
  step_size_ = static_cast<float>(-std::min<double>(options.learning_rate / correction, kGreatestFloat));
  root_of_correction_ = static_cast<float>(std::sqrt(square_correction));
}

bool LearnedStep::IsFinite(double grad_factor, const LearnedGradient& gradient) {
  return std::abs(grad_factor * gradient.scale) <= kGreatestFloat &&
         std::abs(grad_factor * gradient.zero_point) <= kGreatestFloat;
}

float LearnedStep::Descend(float param, double gradient, LearnedMoments* moments) const {
  const float grad = static_cast<float>(grad_factor_ * gradient);
  if (options_.optimizer == LearnedOptimizer::kSgd) {
    float direction = grad;
    if (options_.momentum != 0) {
      if (!first_) direction = Saturated(moments->first * static_cast<float>(options_.momentum) + grad);
      moments->first = direction;
    }
    return param + static_cast<float>(-options_.learning_rate) * direction;
  }
  const float average = moments->first * static_cast<float>(options_.beta1);
  moments->first = Saturated(average + static_cast<float>(1 - options_.beta1) * grad);
  const float squares = moments->second * static_cast<float>(options_.beta2);
  moments->second = Saturated(squares + static_cast<float>(1 - options_.beta2) * grad * grad);
  const float root = std::sqrt(moments->second) / root_of_correction_ + static_cast<float>(options_.epsilon);
  return param + step_size_ * moments->first / root;
}

void LearnedStep::Apply(const LearnedGradient& gradient, LearnedState* state) const {
  ++state->steps;
  state->scale = ClampScale(rules_, Descend(state->scale, gradient.scale, &state->scale_moments));
  if (rules_.symmetric) return;
  state->zero_point = ZeroPointOf(rules_, Descend(state->zero_point, gradient.zero_point, &state->zero_point_moments));
}

}  // namespace calib
