#include "quant/searches/mxnet_float.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace calib {
namespace {

constexpr float kFloatEpsilon = 1e-4f;

// Zeros become eps and the others lose what that adds. Whether that can be done.
bool Smooth(absl::Span<float> counts) {
  const size_t zeros = static_cast<size_t>(std::count(counts.begin(), counts.end(), 0.0f));
  const size_t others = counts.size() - zeros;
  if (others == 0) return false;
  const float loss = kFloatEpsilon * static_cast<float>(zeros) / static_cast<float>(others);
  if (loss >= 1) return false;
  for (float& count : counts) count = count == 0 ? kFloatEpsilon : count - loss;
  return true;
}

float Sum(absl::Span<const float> values) {
  float sum = 0;
  for (const float value : values) sum += value;
  return sum;
}

}  // namespace

MxnetFloatDivergence::MxnetFloatDivergence(absl::Span<const double> below, size_t quantized_bins)
    : below_(below), groups_(quantized_bins), p_(below.size() - 1), q_(below.size() - 1) {}

void MxnetFloatDivergence::MakeDistributions(size_t start, size_t stop) {
  const size_t size = stop - start, width = size / groups_;
  const auto own = [&](size_t i) { return below_[start + i + 1] - below_[start + i]; };
  for (size_t i = 0; i < size; ++i) p_[i] = static_cast<float>(own(i));
  p_[0] = static_cast<float>(below_[start + 1]);
  p_[size - 1] = static_cast<float>(own(size - 1) + (below_.back() - below_[stop]));
  for (size_t group = 0; group < groups_; ++group) {
    const size_t begin = group * width, end = group + 1 == groups_ ? size : begin + width;
    // Neither the first bin's own count nor what lies outside is part of Q's means.
    double mass = 0, filled = 0;
    for (size_t i = std::max<size_t>(begin, 1); i < end; ++i) {
      mass += own(i);
      filled += own(i) > 0 ? 1 : 0;
    }
    const float mean = filled > 0 ? static_cast<float>(mass) / static_cast<float>(filled) : 0;
    for (size_t i = begin; i < end; ++i) q_[i] = p_[i] != 0 ? mean : 0;
  }
}

float MxnetFloatDivergence::operator()(size_t half) {
  const size_t middle = p_.size() / 2, start = middle - half, stop = middle + half + 1, size = stop - start;
  MakeDistributions(start, stop);
  const absl::Span<float> p = absl::MakeSpan(p_).first(size), q = absl::MakeSpan(q_).first(size);
  if (!Smooth(p) || !Smooth(q)) return std::numeric_limits<float>::infinity();
  const float p_sum = Sum(p), q_sum = Sum(q);
  const float empty = kFloatEpsilon / p_sum, empty_term = empty * std::log(empty / (kFloatEpsilon / q_sum));
  float divergence = 0;
  for (size_t i = 0; i < size; ++i) {
    if (p[i] == kFloatEpsilon && q[i] == kFloatEpsilon) {
      divergence += empty_term;
    } else {
      const float share = p[i] / p_sum;
      divergence += share * std::log(share / (q[i] / q_sum));
    }
  }
  return divergence;
}

}  // namespace calib
