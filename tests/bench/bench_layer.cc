#include "tests/bench/bench_layer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>

#include "quant/observe.h"

namespace calib::bench {
namespace {

LayerStatistics Observe(const std::vector<float>& values) {
  const uint64_t shape[] = {values.size()};
  LayerStatistics result{ObserverConfig{}};
  const auto bytes =
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  if (!TensorObserver().Observe({DataType::kFloat32, shape, 0, bytes}, &result).ok()) std::abort();
  return result;
}

// Lives as long as the program, so that the histogram can borrow its counts.
const EqualWidthHistogram* Count(double low, double high, size_t bins) {
  auto* const counts = new std::vector<double>(bins);
  const double per_width = static_cast<double>(bins) / (high - low);
  for (const double x : LayerValues()) ++(*counts)[std::min(static_cast<size_t>((x - low) * per_width), bins - 1)];
  return new EqualWidthHistogram{low, high, *counts};
}

}  // namespace

const std::vector<float>& LayerValues() {
  static const auto* const values = [] {
    std::mt19937_64 rng(1);
    std::student_t_distribution<float> student(4);
    auto* const result = new std::vector<float>(1 << 20);
    for (float& x : *result) x = student(rng);
    return result;
  }();
  return *values;
}

const LayerStatistics& StatisticsOfLayer() {
  static const auto* const statistics = new LayerStatistics(Observe(LayerValues()));
  return *statistics;
}

const EqualWidthHistogram& LayerHistogram() {
  static const EqualWidthHistogram* const histogram = [] {
    const auto [least, greatest] = std::minmax_element(LayerValues().begin(), LayerValues().end());
    return Count(*least, *greatest, 2048);
  }();
  return *histogram;
}

const EqualWidthHistogram& LayerSymmetricHistogram() {
  static const EqualWidthHistogram* const histogram = [] {
    const double greatest = std::max(std::abs(LayerHistogram().low), std::abs(LayerHistogram().high));
    return Count(-greatest, greatest, 8001);
  }();
  return *histogram;
}

const std::vector<LayerStatistics>& FleetStatistics() {
  static const auto* const fleet = [] {
    auto* const result = new std::vector<LayerStatistics>;
    std::mt19937_64 rng(2);
    std::normal_distribution<float> gauss;
    std::student_t_distribution<float> student(4);
    std::vector<float> values(16 << 10);
    for (int layer = 0; layer < 1000; ++layer) {
      const float magnitude = std::exp2(gauss(rng));
      for (float& x : values) x = magnitude * (layer % 3 == 2 ? student(rng) : gauss(rng));
      if (layer % 3 == 1) {
        for (float& x : values) x = std::max(0.0f, x);
      }
      result->push_back(Observe(values));
    }
    return result;
  }();
  return *fleet;
}

}  // namespace calib::bench
