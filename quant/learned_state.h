#ifndef CALIB_QUANT_LEARNED_STATE_H_
#define CALIB_QUANT_LEARNED_STATE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "quant/method_spec.h"
#include "quant/quant_rules.h"
#include "quant/quant_spec.h"

namespace calib {

// How learned parameters follow their gradients.
enum class LearnedOptimizer : uint8_t {
  kSgd,   // with momentum b: v = b v + g, the first v being g; p = p - learning_rate v
  kAdam,  // with bias correction
};

// How a quantizer's scale and zero point are learned (see learned.h for the gradients).
struct LearnedOptions {
  LearnedOptimizer optimizer = LearnedOptimizer::kSgd;
  double learning_rate = 0.01;  // above 0
  double momentum = 0;          // kSgd: in [0, 1)
  double beta1 = 0.9;           // kAdam: in [0, 1), decay of the gradients' average
  double beta2 = 0.999;         // kAdam: in [0, 1), decay of their squares' average
  double epsilon = 1e-8;        // kAdam: above 0, added to the root of the squares
  // Take gradients as they come. False: times LsqGradFactor of the elements of all ranks.
  bool plain_gradients = false;
  // All ranks hold the same tensor: that factor takes the elements of one rank, not of all together.
  bool replicated = false;
  // What reads the first statistics, to begin with.
  MethodSpec initial{.method = CalibrationMethod::kLsq};
  // The quantizer; its granularity follows the observer's channel axis, not this. The zero point is learned if the
  // scheme is affine, else it stays the preset's symmetric zero point.
  QuantSpec spec;

  friend bool operator==(const LearnedOptions&, const LearnedOptions&) = default;
};

// PyTorch's defaults: 0.01 for kSgd (which it has none for), 0.001 for kAdam.
double DefaultLearningRate(LearnedOptimizer optimizer);
// lsq, for an affine scheme minmax.
MethodSpec DefaultLearnedInitial(QuantScheme scheme);

// INVALID_ARGUMENT when a learned quantizer can't be this: codes other than integers, a power-of-two scale, codes that
// are not within +-kGreatestLearnedCode or of which none is above zero, or what ResolveSpec refuses.
absl::Status CheckLearnedSpec(const QuantSpec& spec);
// INVALID_ARGUMENT when a number is out of its range, in float32 too, or not a number; when `initial` is malformed or
// has no answer for the spec; or as CheckLearnedSpec.
absl::Status CheckLearnedOptions(const LearnedOptions& options);

// dL/dscale and dL/dzero_point of one channel, averaged over ranks, without LSQ's factor.
struct LearnedGradient {
  double scale = 0;
  double zero_point = 0;

  friend bool operator==(const LearnedGradient&, const LearnedGradient&) = default;
};

// What an optimizer keeps of one parameter.
struct LearnedMoments {
  float first = 0;   // kSgd: v, unused without momentum; kAdam: the gradients' average
  float second = 0;  // kAdam: their squares' average

  friend bool operator==(const LearnedMoments&, const LearnedMoments&) = default;
};

// What is learned of one channel.
struct LearnedState {
  float scale = 1;       // LearnedScaleFloor(rules) to FLT_MAX
  float zero_point = 0;  // qmin to qmax, also between codes
  LearnedMoments scale_moments;
  LearnedMoments zero_point_moments;
  uint64_t steps = 0;  // gradients that were applied

  // The zero point rounded half to even, as FakeQuantize does but for the first form of its kernel.
  QParams Params() const;

  friend bool operator==(const LearnedState&, const LearnedState&) = default;
};

// The least scale that is learned: the preset's scale floor (pytorch's 2^-23 is what PyTorch's _LearnableFakeQuantize
// clamps to as well), and at least float32's least normal number.
float LearnedScaleFloor(const QuantRules& rules);

// The state that begins from these parameters, moved to where a scale and a zero point can be.
LearnedState InitialLearnedState(const QuantRules& rules, const QParams& params);

// INVALID_ARGUMENT when no steps can have led to this state. REQUIRES: CheckLearnedOptions(options).ok().
absl::Status CheckLearnedState(const LearnedOptions& options, const LearnedState& state);

// One step of an optimizer, for all channels of a layer.
//
// Arithmetic: that of torch.optim.SGD and torch.optim.Adam of PyTorch 1.13 (single-tensor path on the CPU, no weight
// decay, dampening, Nesterov or AMSGrad) on a float32 parameter whose .grad is the float32 of grad_factor x gradient:
// each operation rounds to float32, coefficients are computed in double first. Then the scale is clamped to
// LearnedScaleFloor(rules) and the zero point to the codes. Equal bit for bit to PyTorch, but for:
// - its kernels for AVX2 and AVX-512, which fuse multiplications and additions (ATEN_CPU_CAPABILITY=default does not);
// - Adam after 2^24 steps, where PyTorch's float32 counter stands still, and on a C library whose pow differs;
// - overflow: moments, the step size and the scale stay at the greatest float32, where PyTorch goes to infinity and
//   NaN.
class LearnedStep {
 public:
  // The step after `steps` ones. REQUIRES: CheckLearnedOptions(options).ok(); `rules` are those of options.spec.
  LearnedStep(const LearnedOptions& options, const QuantRules& rules, double grad_factor, uint64_t steps);

  // Whether grad_factor x gradient is finite in float32.
  static bool IsFinite(double grad_factor, const LearnedGradient& gradient);
  // REQUIRES: state->steps is that of this step; IsFinite(grad_factor, gradient).
  void Apply(const LearnedGradient& gradient, LearnedState* state) const;

 private:
  // The parameter's next value, not clamped: an infinity where float32 overflows.
  float Descend(float param, double gradient, LearnedMoments* moments) const;

  const LearnedOptions& options_;
  const QuantRules& rules_;
  double grad_factor_;
  bool first_;
  // Of kAdam.
  float step_size_ = 0;           // negative
  float root_of_correction_ = 0;  // of the squares' average
};

}  // namespace calib

#endif  // CALIB_QUANT_LEARNED_STATE_H_
