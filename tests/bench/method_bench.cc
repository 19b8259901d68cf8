// From statistics to qparams, one layer of 1 M gaussian values with a heavy tail.

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quant/calibrate.h"
#include "quant/observe.h"
#include "quant/packed_histogram.h"

namespace calib {
namespace {

const LayerStatistics& Statistics() {
  static const LayerStatistics statistics = [] {
    std::mt19937_64 rng(1);
    std::student_t_distribution<float> student(4);
    std::vector<uint8_t> bytes(4 << 20);
    for (size_t i = 0; i < bytes.size(); i += 4) {
      const float x = student(rng);
      std::memcpy(&bytes[i], &x, 4);
    }
    const uint64_t shape[] = {bytes.size() / 4};
    LayerStatistics result{ObserverConfig{}};
    if (!TensorObserver().Observe({DataType::kFloat32, shape, 0, bytes}, &result).ok()) std::abort();
    return result;
  }();
  return statistics;
}

void RunMethod(benchmark::State& state, const MethodSpec& method, const QuantSpec& spec) {
  for (auto _ : state) benchmark::DoNotOptimize(Calibrate(Statistics(), method, spec));
}

void Pack(benchmark::State& state) {
  PackedHistogram packed;
  for (auto _ : state) calib::Pack(*Statistics().channels()[0].histogram, &packed);
  state.counters["bytes"] = static_cast<double>(packed.counts.size());
}
BENCHMARK(Pack)->Name("packed/pack");

void ValidateAndAdd(benchmark::State& state) {
  const ChannelStatistics& channel = Statistics().channels()[0];
  PackedHistogram packed;
  calib::Pack(*channel.histogram, &packed);
  Bfloat16Histogram sum;
  for (auto _ : state) {
    if (!ValidatePacked(packed.view(), channel.range).ok()) state.SkipWithError("not valid");
    AddPacked(packed.view(), &sum);
  }
}
BENCHMARK(ValidateAndAdd)->Name("packed/validate_and_add");

const bool registered = [] {
  for (const auto method : {CalibrationMethod::kMinMax, CalibrationMethod::kPercentile, CalibrationMethod::kCoverage,
                            CalibrationMethod::kMse}) {
    for (const char* type : {"int4", "int8", "int16"}) {
      for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
        const absl::string_view method_name = MethodName(method);
        const std::string name = "qparams/" + std::string(method_name.data(), method_name.size()) + "/" + type +
                                 (scheme == QuantScheme::kSymmetric ? "/symmetric" : "/affine");
        const QuantSpec spec{.type = *ParseQuantType(type), .scheme = scheme};
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
          RunMethod(state, MethodSpec{.method = method}, spec);
        })->Unit(benchmark::kMicrosecond);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace calib
