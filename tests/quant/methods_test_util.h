#ifndef CALIB_TESTS_QUANT_METHODS_TEST_UTIL_H_
#define CALIB_TESTS_QUANT_METHODS_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/layer_statistics.h"
#include "quant/observe.h"
#include "quant/quant_spec.h"
#include "tests/support/npy_reader.h"

namespace calib::test {

// Statistics of raw values, by the observer that the service uses.
inline LayerStatistics ObserveLayer(const std::vector<float>& values, const std::vector<uint64_t>& shape,
                                    const ObserverConfig& config) {
  LayerStatistics statistics(config);
  TensorView view;
  view.shape = shape;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  EXPECT_EQ(TensorObserver().Observe(view, &statistics), absl::OkStatus());
  return statistics;
}

// The same, per tensor.
inline LayerStatistics ObserveValues(const std::vector<float>& values,
                                     int mantissa_bits = Bfloat16Histogram::kMaxMantissaBits) {
  ObserverConfig config;
  config.mantissa_bits = mantissa_bits;
  return ObserveLayer(values, {values.size()}, config);
}

inline QuantSpec MakeSpec(absl::string_view type, QuantScheme scheme = QuantScheme::kSymmetric,
                          QuantPreset preset = QuantPreset::kPytorch) {
  QuantSpec spec;
  spec.type = *ParseQuantType(type);
  spec.scheme = scheme;
  spec.preset = preset;
  return spec;
}

// A golden layer: its raw values and what expected.json says of them.
struct GoldenLayer {
  std::string name;
  std::vector<float> values;
  nlohmann::json expected;
};

// All golden layers, in the order of their names.
inline const std::vector<GoldenLayer>& GoldenLayers() {
  static const auto* const layers = [] {
    auto* result = new std::vector<GoldenLayer>;
    const std::string folder = std::string(CALIB_GOLDEN_DIR) + "/digits_cnn/";
    std::ifstream file(folder + "expected.json");
    const auto expected = nlohmann::json::parse(file).at("layers");
    for (const auto& [name, layer] : expected.items()) {
      result->push_back({name, ReadNpy(folder + name + ".npy").data, layer});
    }
    return result;
  }();
  return *layers;
}

// What quantizing raw values costs, measured.
struct MeasuredError {
  double squared_error = 0;
  double square_sum = 0;
  double saturated = 0;
};

inline MeasuredError Measure(const std::vector<float>& values, const QuantRules& rules, const QParams& params) {
  const double scale = params.scale, zero_point = static_cast<double>(params.zero_point);
  const double least = static_cast<double>(rules.qmin) - zero_point,
               greatest = static_cast<double>(rules.qmax) - zero_point;
  MeasuredError result;
  for (const double x : values) {
    const double error = x - scale * std::clamp(std::floor(x / scale + 0.5), least, greatest);
    result.squared_error += error * error;
    result.square_sum += x * x;
    // Up to what rounding the scale to float32 makes.
    constexpr double kRounding = 1 + 0x1p-22;
    if (x < (least - 0.5) * scale * kRounding || x > (greatest + 0.5) * scale * kRounding) ++result.saturated;
  }
  return result;
}

// The least squared error that any quantizer of this form reaches on raw values, by trying scales over sorted values:
// for each scale the errors of all codes' cells, and by running sums over them all zero points.
class RawSearch {
 public:
  explicit RawSearch(std::vector<float> values) : sorted_(std::move(values)) {
    std::sort(sorted_.begin(), sorted_.end());
    first_.push_back(0);
    second_.push_back(0);
    for (const long double x : sorted_) {
      first_.push_back(first_.back() + x);
      second_.push_back(second_.back() + x * x);
    }
  }

  // The least error of affine quantizers with `steps` + 1 codes and this scale.
  double BestAffine(double scale, int64_t steps) const {
    std::vector<size_t> ends;  // of the cells of codes -steps to steps
    std::vector<long double> inside = {0};
    size_t at = 0;
    for (int64_t code = -steps; code <= steps; ++code) {
      const size_t begin = code == -steps ? at = FirstAtOrAbove((-static_cast<double>(steps) - 0.5) * scale) : at;
      at = FirstAtOrAbove((static_cast<double>(code) + 0.5) * scale);
      ends.push_back(begin);
      inside.push_back(inside.back() + ErrorAbout(begin, at, static_cast<double>(code) * scale));
    }
    ends.push_back(at);
    long double best = INFINITY;
    for (int64_t above = 0; above <= steps; ++above) {
      const int64_t least = above - steps;  // codes [least, above] about zero
      const size_t low = static_cast<size_t>(least + steps), high = static_cast<size_t>(above + steps) + 1;
      best = std::min(best, inside[high] - inside[low] + ErrorAbout(0, ends[low], static_cast<double>(least) * scale) +
                                ErrorAbout(ends[high], sorted_.size(), static_cast<double>(above) * scale));
    }
    return static_cast<double>(best);
  }

  // The error of the codes [least, greatest] about zero.
  double Error(double scale, int64_t least, int64_t greatest) const {
    long double error = 0;
    size_t at = 0;
    for (int64_t code = least; code <= greatest; ++code) {
      const size_t begin = at;
      at = code == greatest ? sorted_.size() : FirstAtOrAbove((static_cast<double>(code) + 0.5) * scale);
      error += ErrorAbout(begin, at, static_cast<double>(code) * scale);
    }
    return static_cast<double>(error);
  }

  double min() const { return std::min(0.0f, sorted_.front()); }
  double max() const { return std::max(0.0f, sorted_.back()); }

 private:
  size_t FirstAtOrAbove(double x) const {
    return static_cast<size_t>(std::lower_bound(sorted_.begin(), sorted_.end(), x) - sorted_.begin());
  }
  long double ErrorAbout(size_t begin, size_t end, long double center) const {
    return second_[end] - second_[begin] - 2 * center * (first_[end] - first_[begin]) +
           center * center * static_cast<long double>(end - begin);
  }

  std::vector<float> sorted_;
  std::vector<long double> first_, second_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_QUANT_METHODS_TEST_UTIL_H_
