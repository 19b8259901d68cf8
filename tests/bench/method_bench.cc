// From statistics to qparams, one layer of 1 Mi values, bench_layer.h.

#include <benchmark/benchmark.h>

#include <string>

#include "quant/calibrate.h"
#include "quant/packed_histogram.h"
#include "tests/bench/bench_layer.h"

namespace calib {
namespace {

using bench::StatisticsOfLayer;

void RunMethod(benchmark::State& state, const MethodSpec& method, const QuantSpec& spec) {
  const LayerStatistics& statistics = StatisticsOfLayer();  // made on the first call, which is not to be timed
  for (auto _ : state) benchmark::DoNotOptimize(Calibrate(statistics, method, spec));
}

void Pack(benchmark::State& state) {
  const Bfloat16Histogram& histogram = *StatisticsOfLayer().channels()[0].histogram;
  PackedHistogram packed;
  for (auto _ : state) calib::Pack(histogram, &packed);
  state.counters["bytes"] = static_cast<double>(packed.counts.size());
}
BENCHMARK(Pack)->Name("packed/pack");

void ValidateAndAdd(benchmark::State& state) {
  const ChannelStatistics& channel = StatisticsOfLayer().channels()[0];
  PackedHistogram packed;
  calib::Pack(*channel.histogram, &packed);
  Bfloat16Histogram sum;
  for (auto _ : state) {
    if (!ValidatePacked(packed.view(), channel.range).ok()) state.SkipWithError("not valid");
    AddPacked(packed.view(), &sum);
  }
}
BENCHMARK(ValidateAndAdd)->Name("packed/validate_and_add");

const bool methods_registered = [] {
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
