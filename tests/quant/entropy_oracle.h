#ifndef CALIB_TESTS_QUANT_ENTROPY_ORACLE_H_
#define CALIB_TESTS_QUANT_ENTROPY_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

#include "absl/types/span.h"

namespace calib::test {

// Kullback-Leibler divergence of each candidate as the definition has it, element by element in double.

// Each zero becomes eps, what that adds is taken from the others. Empty: can't be done.
inline std::vector<double> SmoothCounts(std::vector<double> counts) {
  constexpr double kEpsilon = 1e-4;
  const double zeros = static_cast<double>(std::count(counts.begin(), counts.end(), 0.0));
  const double others = static_cast<double>(counts.size()) - zeros;
  if (others == 0 || kEpsilon * zeros / others >= 1) return {};
  for (double& count : counts) count = count == 0 ? kEpsilon : count - kEpsilon * zeros / others;
  return counts;
}

inline double Divergence(const std::vector<double>& p, const std::vector<double>& q) {
  const double p_sum = std::accumulate(p.begin(), p.end(), 0.0), q_sum = std::accumulate(q.begin(), q.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) sum += p[i] / p_sum * std::log((p[i] / p_sum) / (q[i] / q_sum));
  }
  return sum;
}

// Apache MXNet's calibrate_entropy: divergences of the candidates with quantized_bins / 2, ... bins beside the middle.
inline std::vector<double> MxnetDivergences(absl::Span<const double> counts, int quantized_bins) {
  const size_t middle = counts.size() / 2, groups = static_cast<size_t>(quantized_bins);
  std::vector<double> divergences;
  for (size_t half = groups / 2; half <= middle; ++half) {
    const size_t start = middle - half, stop = middle + half + 1, size = stop - start;
    std::vector<double> p(counts.begin() + static_cast<std::ptrdiff_t>(start),
                          counts.begin() + static_cast<std::ptrdiff_t>(stop));
    std::vector<double> sliced = p;
    sliced.front() = 0;
    for (size_t i = 0; i < start; ++i) p.front() += counts[i];
    for (size_t i = stop; i < counts.size(); ++i) p.back() += counts[i];
    const size_t width = size / groups;
    std::vector<double> q(size);
    for (size_t group = 0; group < groups; ++group) {
      const size_t begin = group * width, end = group + 1 == groups ? size : begin + width;
      double mass = 0, filled = 0;
      for (size_t i = begin; i < end; ++i) {
        mass += sliced[i];
        filled += sliced[i] != 0 ? 1 : 0;
      }
      for (size_t i = begin; i < end; ++i) q[i] = filled > 0 && p[i] != 0 ? mass / filled : 0;
    }
    p = SmoothCounts(std::move(p));
    q = SmoothCounts(std::move(q));
    divergences.push_back(q.empty() ? std::numeric_limits<double>::infinity() : Divergence(p, q));
  }
  return divergences;
}

// pytorch-quantization's: divergences of the candidates of 128, 129, ... bins.
inline std::vector<double> TensorrtDivergences(absl::Span<const double> counts, int levels) {
  std::vector<double> bins(counts.begin(), counts.end());
  bins[0] = bins[1];
  std::vector<double> divergences;
  for (size_t size = 128; size <= bins.size(); ++size) {
    const size_t groups = static_cast<size_t>(levels);
    std::vector<double> mass(groups), filled(groups), q(size);
    for (size_t i = 0; i < size; ++i) {
      mass[i * groups / size] += bins[i];
      filled[i * groups / size] += bins[i] != 0 ? 1 : 0;
    }
    std::vector<double> p(bins.begin(), bins.begin() + static_cast<std::ptrdiff_t>(size));
    for (size_t i = 0; i < size; ++i) q[i] = p[i] != 0 ? mass[i * groups / size] / filled[i * groups / size] : 0;
    for (size_t i = size; i < bins.size(); ++i) p.back() += bins[i];
    const double divergence = Divergence(p, q);
    divergences.push_back(std::isnan(divergence) ? std::numeric_limits<double>::infinity() : divergence);
  }
  return divergences;
}

}  // namespace calib::test

#endif  // CALIB_TESTS_QUANT_ENTROPY_ORACLE_H_
