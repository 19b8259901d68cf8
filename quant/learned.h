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
// 2020; arithmetic and gradients of PyTorch 1.13 _LearnableFakeQuantize, fake_quantize_learnable_*_affine.)

// Elements of a row-major tensor in blocks: element (o, c, i) of `outer` x `channels` x `inner` belongs to channel c.
// Per tensor: channels is 1.
struct ChannelBlocks {
  size_t outer = 1;
  size_t channels = 1;
  size_t inner = 0;

  size_t elements() const { return outer * channels * inner; }
};

struct LearnedParams {
  absl::Span<const float> scale;       // one a channel, > 0
  absl::Span<const float> zero_point;  // one a channel; may lie between codes
  int64_t qmin = -128;
  int64_t qmax = 127;
};

// y = (q - z) s with q = clamp(round half to even(x / s + z), qmin, qmax) and z the zero point rounded half to even and
// clamped to [qmin, qmax]. float32 throughout. INVALID_ARGUMENT when sizes don't fit together or a scale is not positive.
absl::Status FakeQuantize(const LearnedParams& params, const ChannelBlocks& blocks, absl::Span<const float> x,
                          absl::Span<float> y);

// Gradients of a loss, given dy = dL/dy. dx = dy where the code is not saturated, else 0. dscale and dzero_point, one a
// channel, are sums over the channel's elements times grad_factor, in double: see learned.cc for the elements' terms.
// Errors as FakeQuantize.
absl::Status FakeQuantizeGradients(const LearnedParams& params, const ChannelBlocks& blocks, double grad_factor,
                                   absl::Span<const float> x, absl::Span<const float> dy, absl::Span<float> dx,
                                   absl::Span<double> dscale, absl::Span<double> dzero_point);

// LSQ's gradient factor, 1 / sqrt(elements x qmax).
double LsqGradFactor(uint64_t elements, int64_t qmax);

// LSQ's initial scale, 2 mean|x| / sqrt(qmax), from a histogram. REQUIRES: at least one finite value, qmax > 0.
double LsqInitialScale(const BinModel& model, int64_t qmax);
// LSQ+'s initial scale of weights: max(|mean - 3 sigma|, |mean + 3 sigma|) / 2^(bits - 1), with 2^(bits - 1) as half the
// number of codes. REQUIRES: at least one finite value.
double LsqPlusInitialScale(const BinModel& model, const QuantRules& rules);

}  // namespace calib

#endif  // CALIB_QUANT_LEARNED_H_
