// The searches that other frameworks have too, on the histograms that those would search, one core; and a fleet's
// layers with four methods on two. peers.py times PyTorch's search on the same counts.

#include <benchmark/benchmark.h>

#include <atomic>
#include <cmath>
#include <cstddef>
#include <thread>
#include <vector>

#include "quant/calibrate.h"
#include "quant/searches.h"
#include "tests/bench/bench_layer.h"
#include "tests/bench/direct_entropy.h"

namespace calib::bench {
namespace {

constexpr int kMxnetLevels = 255;

void L2Greedy(benchmark::State& state) {
  const EqualWidthHistogram& histogram = LayerHistogram();
  for (auto _ : state) benchmark::DoNotOptimize(L2GreedyRange(histogram, 256));
}
BENCHMARK(L2Greedy)->Name("search/l2_greedy/2048 bins")->Unit(benchmark::kMicrosecond);

// Both find the same, or comparing their times means nothing.
void Entropy(benchmark::State& state) {
  const EqualWidthHistogram& histogram = LayerSymmetricHistogram();
  const EntropyResult direct = DirectEntropy(histogram, kMxnetLevels);
  const absl::StatusOr<EntropyResult> found = MxnetEntropy(histogram, kMxnetLevels);
  const double bin_width = (histogram.high - histogram.low) / static_cast<double>(histogram.counts.size());
  if (!found.ok() || std::abs(found->threshold - direct.threshold) > bin_width / 2) {
    state.SkipWithError("not the range of the direct evaluation");
  }
  for (auto _ : state) benchmark::DoNotOptimize(MxnetEntropy(histogram, kMxnetLevels));
}
BENCHMARK(Entropy)->Name("search/entropy/8001 bins")->Unit(benchmark::kMicrosecond);

void EntropyDirectly(benchmark::State& state) {
  const EqualWidthHistogram& histogram = LayerSymmetricHistogram();
  for (auto _ : state) benchmark::DoNotOptimize(DirectEntropy(histogram, kMxnetLevels));
}
BENCHMARK(EntropyDirectly)->Name("search/entropy/8001 bins/direct")->Unit(benchmark::kMicrosecond);

void Fleet(benchmark::State& state) {
  const std::vector<LayerStatistics>& layers = FleetStatistics();
  const QuantSpec spec;
  std::atomic<bool> failed = false;
  for (auto _ : state) {
    std::atomic<size_t> next = 0;
    const auto work = [&] {
      for (size_t layer = next++; layer < layers.size(); layer = next++) {
        for (const auto method : {CalibrationMethod::kMinMax, CalibrationMethod::kPercentile, CalibrationMethod::kMse,
                                  CalibrationMethod::kEntropy}) {
          const auto result = Calibrate(layers[layer], {.method = method}, spec);
          if (!result.ok()) failed = true;
        }
      }
    };
    std::thread other(work);
    work();
    other.join();
  }
  if (failed) state.SkipWithError("a layer has no parameters");
}
BENCHMARK(Fleet)
    ->Name("fleet/1000 layers/minmax, percentile, mse, entropy/2 cores")
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace calib::bench
