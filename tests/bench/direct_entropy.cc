#include "tests/bench/direct_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace calib::bench {
namespace {

// Raises zeros to a little and takes that from the others; false when there is too little to take from.
bool Smooth(std::vector<float>* counts) {
  constexpr float kZero = 1e-4f;
  const auto zeros = static_cast<size_t>(std::count(counts->begin(), counts->end(), 0.0f));
  const size_t others = counts->size() - zeros;
  if (others == 0) return false;
  const float share = kZero * static_cast<float>(zeros) / static_cast<float>(others);
  if (share >= 1) return false;
  for (float& count : *counts) count += count == 0 ? kZero : -share;
  return true;
}

float Divergence(const std::vector<float>& p, const std::vector<float>& q) {
  const float p_sum = std::accumulate(p.begin(), p.end(), 0.0f), q_sum = std::accumulate(q.begin(), q.end(), 0.0f);
  float sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const float share = p[i] / p_sum;
    sum += share * std::log(share / (q[i] / q_sum));
  }
  return sum;
}

// The candidate of bins [start, stop). `p`, `q` and `sliced` are overwritten.
float CandidateDivergence(const std::vector<float>& counts, size_t start, size_t stop, size_t quantized_bins,
                          std::vector<float>* p, std::vector<float>* q, std::vector<float>* sliced) {
  const auto begin = counts.begin() + static_cast<ptrdiff_t>(start),
             end = counts.begin() + static_cast<ptrdiff_t>(stop);
  p->assign(begin, end);
  sliced->assign(begin, end);
  // What lies outside is added to the reference's ends only, and the first bin's own count is in neither group.
  p->front() = std::accumulate(counts.begin(), begin + 1, 0.0f);
  p->back() += std::accumulate(end, counts.end(), 0.0f);
  sliced->front() = 0;

  q->assign(p->size(), 0);
  const size_t merged = p->size() / quantized_bins;
  for (size_t group = 0; group < quantized_bins; ++group) {
    const size_t first = group * merged, last = group + 1 == quantized_bins ? p->size() : first + merged;
    int64_t mass = 0;
    size_t filled = 0;
    for (size_t i = first; i < last; ++i) {
      mass += static_cast<int64_t>((*sliced)[i]);
      filled += (*sliced)[i] != 0 ? 1 : 0;
    }
    if (filled == 0) continue;
    const float level = static_cast<float>(mass) / static_cast<float>(filled);
    for (size_t i = first; i < last; ++i) {
      if ((*p)[i] != 0) (*q)[i] = level;
    }
  }
  if (!Smooth(p) || !Smooth(q)) return std::numeric_limits<float>::infinity();
  return Divergence(*p, *q);
}

}  // namespace

EntropyResult DirectEntropy(const EqualWidthHistogram& histogram, int quantized_bins) {
  const std::vector<float> counts(histogram.counts.begin(), histogram.counts.end());
  const size_t zero = counts.size() / 2, half = static_cast<size_t>(quantized_bins) / 2;
  const double width = (histogram.high - histogram.low) / static_cast<double>(counts.size());
  std::vector<float> p, q, sliced;
  size_t best = half;
  float least = std::numeric_limits<float>::infinity();
  for (size_t reach = half; reach <= zero; ++reach) {
    const float divergence = CandidateDivergence(counts, zero - reach, zero + reach + 1,
                                                 static_cast<size_t>(quantized_bins), &p, &q, &sliced);
    if (divergence < least) {
      least = divergence;
      best = reach;
    }
  }
  return {histogram.low + width * static_cast<double>(zero + best + 1), least};
}

}  // namespace calib::bench
