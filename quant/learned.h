#ifndef CALIB_QUANT_LEARNED_H_
#define CALIB_QUANT_LEARNED_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "quant/bin_model.h"
#include "quant/quant_spec.h"

namespace calib {

// Learned step size quantization: fake quantization with scale and zero point as parameters, and their gradients by the
// straight-through estimator. (Esser et al., "Learned Step Size Quantization", ICLR 2020; LSQ+: Bhalgat et al., CVPRW
// 2020.) Pure functions, safe from any thread.

// Whose arithmetic; they differ in how a zero point between codes is rounded, and in which codes are saturated.
enum class LearnedRule : uint8_t {
  // PyTorch 1.13's _fake_quantize_learnable_per_channel_affine: half to even; saturated beyond qmin and qmax.
  kPytorchPerChannel,
  // Its _fake_quantize_learnable_per_tensor_affine. The same, but gradients are taken at the zero point
  // trunc(clamp(z + 1/2)), which for a negative z is not the forward pass's: -3 becomes -2.
  kPytorchPerTensor,
  // These kernels as they first were (2020), and tests/golden/learnable.json: trunc(clamp(z + 1/2)) in both passes; for
  // dscale and dzero_point a code at qmin or qmax is saturated too. dx is as above.
  kPytorchFirst,
};
// MegEngine 1.13's LSQ is another function and not here: it clamps x / s + z before rounding, half away from zero, so
// the band without saturation ends at qmin and qmax instead of half a code beyond; its scale is |step| + 1e-5; and its
// gradient of saturated elements is qmin or qmax, without - z.

// Codes are within +- this: float32 holds all whole numbers up to here.
inline constexpr int64_t kGreatestLearnedCode = int64_t{1} << 24;

// Elements of a row-major tensor in blocks: element (o, c, i) of `outer` x `channels` x `inner` belongs to channel c.
// Per tensor: channels is 1.
struct ChannelBlocks {
  size_t outer = 1;
  size_t channels = 1;
  size_t inner = 0;

  size_t elements() const { return outer * channels * inner; }
};

struct LearnedParams {
  absl::Span<const float> scale;       // one a channel; normal float32 numbers > 0
  absl::Span<const float> zero_point;  // one a channel; finite, may lie between codes
  int64_t qmin = -128;                 // qmin <= 0 <= qmax, qmin < qmax, both within +-2^24
  int64_t qmax = 127;
  LearnedRule rule = LearnedRule::kPytorchPerChannel;
};

// y = (clamp(q, qmin, qmax) - z) s, where z is the zero point rounded to a code and q the value's code: round half to
// even of x (1 / s), plus z (kPytorchFirst rounds the sum). float32, operation by operation. Infinities saturate, NaN
// stays NaN (PyTorch makes qmin of both). y may be x's own memory. Without elements nothing is written.
// INVALID_ARGUMENT: sizes don't fit together; a scale, zero point, qmin or qmax is not as LearnedParams says.
absl::Status FakeQuantize(const LearnedParams& params, const ChannelBlocks& blocks, absl::Span<const float> x,
                          absl::Span<float> y);

// Gradients of a loss, given dy = dL/dy. With q the round half to even of x (1 / s) + z:
//   dx          = dy where qmin <= q <= qmax, else 0
//   dscale      = grad_factor x sum of dy x (saturated below: qmin - z; above: qmax - z; else ((q - z) s - x) / s)
//   dzero_point = grad_factor x sum of dy x (saturated: -s; else 0)
// Sums are in double, in order, one a channel; 0 without elements (PyTorch returns the parameters). Of NaN dx is 0 and
// the sums have nothing. dx may be dy's own memory. Errors as FakeQuantize, and for a grad_factor that is not finite.
absl::Status FakeQuantizeGradients(const LearnedParams& params, const ChannelBlocks& blocks, double grad_factor,
                                   absl::Span<const float> x, absl::Span<const float> dy, absl::Span<float> dx,
                                   absl::Span<double> dscale, absl::Span<double> dzero_point);

// LSQ's gradient factor, 1 / sqrt(elements x qmax). PyTorch and mmrazor count the whole tensor, per channel too
// (MQBench a channel). Ranks that add up their gradients pass the elements of all. REQUIRES: elements > 0, qmax > 0.
double LsqGradFactor(uint64_t elements, int64_t qmax);

// LSQ's initial scale, 2 mean|x| / sqrt(qmax), from a histogram: exact up to its bins, 2^-(m + 1) relative at m
// mantissa bits. 0 when all values are. REQUIRES: qmax > 0.
double LsqInitialScale(const BinModel& model, int64_t qmax);
// LSQ+'s initial scale of weights: max(|mean - 3 sigma|, |mean + 3 sigma|) / 2^(bits - 1), with 2^(bits - 1) as half
// the number of codes and sigma^2 the mean squared distance from the mean (MQBench: / (count - 1), and all codes, so
// half the scale). 0 when all values are.
double LsqPlusInitialScale(const BinModel& model, const QuantRules& rules);

}  // namespace calib

#endif  // CALIB_QUANT_LEARNED_H_
