#include "quant/learned.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

// std::nearbyint is a call on x86-64 without SSE4.1, and follows the thread's rounding mode.
float RoundHalfEven(float x) {
  if (!(std::abs(x) < 0x1p23f)) return x;  // whole already, or not finite
  const int32_t truncated = static_cast<int32_t>(x);
  const float whole = static_cast<float>(truncated), rest = std::abs(x - whole);
  const bool away = rest > 0.5f || (rest == 0.5f && truncated % 2 != 0);
  return away ? whole + std::copysign(1.0f, x) : whole;
}

// One channel's parameters. All are whole but scale and inverse.
struct Quantizer {
  float scale, inverse, forward_zero, backward_zero, qmin, qmax;
  bool rounds_sum;        // forward: the sum of quotient and zero point is rounded, not the quotient
  float least, greatest;  // saturated, for dscale and dzero_point, below and above these
};

Quantizer MakeQuantizer(const LearnedParams& params, size_t channel) {
  Quantizer result;
  result.scale = params.scale[channel];
  result.inverse = 1.0f / result.scale;
  result.qmin = static_cast<float>(params.qmin);
  result.qmax = static_cast<float>(params.qmax);
  const float zero_point = params.zero_point[channel];
  // Adding 0 makes 0 of -0.
  const float even = std::clamp(RoundHalfEven(zero_point), result.qmin, result.qmax) + 0.0f;
  const float truncated = std::trunc(std::clamp(zero_point + 0.5f, result.qmin, result.qmax)) + 0.0f;
  const bool first = params.rule == LearnedRule::kPytorchFirst;
  result.forward_zero = first ? truncated : even;
  result.backward_zero = params.rule == LearnedRule::kPytorchPerChannel ? even : truncated;
  result.rounds_sum = first;
  result.least = result.qmin + (first ? 1.0f : 0.0f);
  result.greatest = result.qmax - (first ? 1.0f : 0.0f);
  return result;
}

void QuantizeBlock(const Quantizer& quantizer, absl::Span<const float> x, float* y) {
  for (size_t i = 0; i < x.size(); ++i) {
    const float quotient = x[i] * quantizer.inverse;
    const float code = quantizer.rounds_sum ? RoundHalfEven(quotient + quantizer.forward_zero)
                                            : RoundHalfEven(quotient) + quantizer.forward_zero;
    // A NaN passes through both comparisons.
    const float clamped = code < quantizer.qmin ? quantizer.qmin : code > quantizer.qmax ? quantizer.qmax : code;
    y[i] = (clamped - quantizer.forward_zero) * quantizer.scale;
  }
}

// A channel's sums of dy times: what saturated elements give dscale; what others do, times the scale; how many
// saturated.
struct Sums {
  double saturated = 0, inside = 0, saturated_dy = 0;
};

void AddBlock(const Quantizer& quantizer, absl::Span<const float> x, const float* dy, float* dx, Sums* sums) {
  const float zero = quantizer.backward_zero;
  for (size_t i = 0; i < x.size(); ++i) {
    const float code = RoundHalfEven(x[i] * quantizer.inverse + zero), gradient = dy[i];
    dx[i] = code >= quantizer.qmin && code <= quantizer.qmax ? gradient : 0;
    if (std::isnan(code)) continue;
    if (code < quantizer.least || code > quantizer.greatest) {
      const float end = code < quantizer.least ? quantizer.qmin : quantizer.qmax;
      sums->saturated += double{gradient} * (end - zero);
      sums->saturated_dy += gradient;
    } else {
      const float y = (code - zero) * quantizer.scale;
      sums->inside += gradient * (double{y} - x[i]);
    }
  }
}

// Blocks a channel that hold something: without, a great `outer` would take as many empty steps.
size_t FilledBlocks(const ChannelBlocks& blocks) { return blocks.inner == 0 ? 0 : blocks.outer; }

absl::Status Check(const LearnedParams& params, const ChannelBlocks& blocks, size_t elements) {
  if (params.scale.size() != blocks.channels || params.zero_point.size() != blocks.channels) {
    return absl::InvalidArgumentError(absl::StrCat(params.scale.size(), " scales and ", params.zero_point.size(),
                                                   " zero points for ", blocks.channels, " channels"));
  }
  size_t expected = 0;
  if (__builtin_mul_overflow(blocks.outer, blocks.channels, &expected) ||
      __builtin_mul_overflow(expected, blocks.inner, &expected) || expected != elements) {
    return absl::InvalidArgumentError(
        absl::StrCat(elements, " elements, not ", blocks.outer, " x ", blocks.channels, " x ", blocks.inner));
  }
  if (params.qmin > 0 || params.qmax < 0 || params.qmin == params.qmax || params.qmin < -kGreatestLearnedCode ||
      params.qmax > kGreatestLearnedCode) {
    return absl::InvalidArgumentError(absl::StrCat("codes from ", params.qmin, " to ", params.qmax,
                                                   "; they must include zero, be more than one and within +-2^24"));
  }
  for (const float scale : params.scale) {
    // The reciprocal of a subnormal can be infinite.
    if (!std::isnormal(scale) || scale < 0) {
      return absl::InvalidArgumentError(absl::StrCat("scale ", scale, " is not a normal positive float32 number"));
    }
  }
  for (const float zero_point : params.zero_point) {
    if (!std::isfinite(zero_point)) {
      return absl::InvalidArgumentError(absl::StrCat("zero point ", zero_point, " is not finite"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FakeQuantize(const LearnedParams& params, const ChannelBlocks& blocks, absl::Span<const float> x,
                          absl::Span<float> y) {
  if (absl::Status status = Check(params, blocks, x.size()); !status.ok()) return status;
  if (y.size() != x.size()) {
    return absl::InvalidArgumentError(absl::StrCat("room for ", y.size(), " of ", x.size(), " elements"));
  }
  for (size_t channel = 0; channel < blocks.channels; ++channel) {
    const Quantizer quantizer = MakeQuantizer(params, channel);
    for (size_t outer = 0; outer < FilledBlocks(blocks); ++outer) {
      const size_t begin = (outer * blocks.channels + channel) * blocks.inner;
      QuantizeBlock(quantizer, x.subspan(begin, blocks.inner), y.data() + begin);
    }
  }
  return absl::OkStatus();
}

absl::Status FakeQuantizeGradients(const LearnedParams& params, const ChannelBlocks& blocks, double grad_factor,
                                   absl::Span<const float> x, absl::Span<const float> dy, absl::Span<float> dx,
                                   absl::Span<double> dscale, absl::Span<double> dzero_point) {
  if (absl::Status status = Check(params, blocks, x.size()); !status.ok()) return status;
  if (dy.size() != x.size() || dx.size() != x.size() || dscale.size() != blocks.channels ||
      dzero_point.size() != blocks.channels) {
    return absl::InvalidArgumentError(absl::StrCat(
        "gradients of ", dy.size(), " elements into ", dx.size(), " elements, ", dscale.size(), " scales and ",
        dzero_point.size(), " zero points; there are ", x.size(), " elements in ", blocks.channels, " channels"));
  }
  if (!std::isfinite(grad_factor)) {
    return absl::InvalidArgumentError(absl::StrCat("gradient factor ", grad_factor, " is not finite"));
  }
  for (size_t channel = 0; channel < blocks.channels; ++channel) {
    const Quantizer quantizer = MakeQuantizer(params, channel);
    Sums sums;
    for (size_t outer = 0; outer < FilledBlocks(blocks); ++outer) {
      const size_t begin = (outer * blocks.channels + channel) * blocks.inner;
      AddBlock(quantizer, x.subspan(begin, blocks.inner), dy.data() + begin, dx.data() + begin, &sums);
    }
    dscale[channel] = grad_factor * (sums.saturated + sums.inside / quantizer.scale);
    dzero_point[channel] = grad_factor * -sums.saturated_dy * quantizer.scale;
  }
  return absl::OkStatus();
}

double LsqGradFactor(uint64_t elements, int64_t qmax) {
  return 1 / std::sqrt(static_cast<double>(elements) * static_cast<double>(qmax));
}

double LsqInitialScale(const BinModel& model, int64_t qmax) {
  const double mean = (model.positive().magnitude_sum() + model.negative().magnitude_sum()) / model.count();
  return 2 * mean / std::sqrt(static_cast<double>(qmax));
}

double LsqPlusInitialScale(const BinModel& model, const QuantRules& rules) {
  const double mean = (model.positive().magnitude_sum() - model.negative().magnitude_sum()) / model.count();
  // Rounding can put the mean's square above the squares' mean.
  const double sigma = std::sqrt(std::max(0.0, model.square_sum() / model.count() - mean * mean));
  return (std::abs(mean) + 3 * sigma) / (static_cast<double>(rules.qmax - rules.qmin + 1) / 2);
}

}  // namespace calib
