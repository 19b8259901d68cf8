// The observe pass: every kernel this CPU has, and TensorObserver as users call it. One core; items are elements.

#include <benchmark/benchmark.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quant/kernels/kernel.h"
#include "quant/observe.h"

namespace calib {
namespace {

enum class Data { kGaussian, kRelu, kConstant, kAnyBits };

constexpr const char* kDataNames[] = {"gaussian", "relu", "constant", "any_bits"};

std::vector<uint8_t> MakeData(Data kind, DataType type, size_t elements) {
  std::mt19937_64 rng(1);
  std::normal_distribution<float> gauss;
  std::vector<uint8_t> bytes(elements * ElementSize(type));
  for (size_t i = 0; i < elements; ++i) {
    float x = 3.3f;
    if (kind == Data::kGaussian) x = gauss(rng);
    if (kind == Data::kRelu) x = std::max(0.0f, gauss(rng));
    if (kind == Data::kAnyBits) x = std::bit_cast<float>(static_cast<uint32_t>(rng()));
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if (type == DataType::kFloat32) {
      std::memcpy(&bytes[4 * i], &bits, 4);
    } else {
      // For bfloat16 the upper half; for float16 a value of like magnitude: exponent rebased, mantissa cut.
      const uint16_t half = type == DataType::kBfloat16
                                ? static_cast<uint16_t>(bits >> 16)
                                : static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13) & 0x7fff) % 0x4800);
      std::memcpy(&bytes[2 * i], &half, 2);
    }
  }
  return bytes;
}

void RunObserver(benchmark::State& state, DataType type, Data kind, ObserverKind observer_kind, size_t elements) {
  const std::vector<uint8_t> data = MakeData(kind, type, elements);
  const uint64_t shape[] = {elements};
  TensorObserver observer;
  LayerStatistics statistics{ObserverConfig{.kind = observer_kind}};
  for (auto _ : state) {
    const absl::Status status = observer.Observe({type, shape, 0, data}, &statistics);
    if (!status.ok()) state.SkipWithError(status.ToString().c_str());
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * elements));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * data.size()));
}

void RunKernel(benchmark::State& state, const Kernel& kernel, Data kind, size_t elements) {
  const std::vector<uint8_t> data = MakeData(kind, DataType::kFloat32, elements);
  const auto counters = std::make_unique<KeyCounters>();
  size_t counted = 0;
  for (auto _ : state) {
    // Counters are 32 bits wide: empty them before they could wrap.
    if (counted + elements > kMaxKernelElements) {
      state.PauseTiming();
      std::memset(counters.get(), 0, sizeof(KeyCounters));
      counted = 0;
      state.ResumeTiming();
    }
    benchmark::DoNotOptimize(kernel.histogram(DataType::kFloat32, data.data(), elements, counters.get()));
    counted += elements;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * elements));
}

const bool kernels_registered = [] {
  for (const Kernel& kernel : AllKernels()) {
    if (!kernel.supported()) continue;
    for (const Data kind : {Data::kGaussian, Data::kRelu, Data::kConstant, Data::kAnyBits}) {
      const std::string name = "kernel/" + std::string(kernel.name.data(), kernel.name.size()) + "/float32/" +
                               kDataNames[static_cast<int>(kind)];
      benchmark::RegisterBenchmark(
          name.c_str(), [&kernel, kind](benchmark::State& state) { RunKernel(state, kernel, kind, size_t{1} << 20); });
    }
  }
  const auto observe = [](const char* name, DataType type, Data kind, ObserverKind observer, size_t elements) {
    benchmark::RegisterBenchmark(name,
                                 [=](benchmark::State& state) { RunObserver(state, type, kind, observer, elements); });
  };
  // The array of peers.py: gaussian float32, 16 Mi elements; then what else users have.
  observe("observe/float32/gaussian/16Mi", DataType::kFloat32, Data::kGaussian, ObserverKind::kHistogram, 16 << 20);
  observe("observe/float32/relu/16Mi", DataType::kFloat32, Data::kRelu, ObserverKind::kHistogram, 16 << 20);
  observe("observe/float16/gaussian/16Mi", DataType::kFloat16, Data::kGaussian, ObserverKind::kHistogram, 16 << 20);
  observe("observe/bfloat16/gaussian/16Mi", DataType::kBfloat16, Data::kGaussian, ObserverKind::kHistogram, 16 << 20);
  observe("observe/float32/gaussian/256Ki", DataType::kFloat32, Data::kGaussian, ObserverKind::kHistogram, 256 << 10);
  observe("observe/float32/gaussian/4Ki", DataType::kFloat32, Data::kGaussian, ObserverKind::kHistogram, 4 << 10);
  observe("observe/float32/gaussian/64", DataType::kFloat32, Data::kGaussian, ObserverKind::kHistogram, 64);
  observe("observe_minmax/float32/gaussian/16Mi", DataType::kFloat32, Data::kGaussian, ObserverKind::kMinMax, 16 << 20);
  return true;
}();

}  // namespace
}  // namespace calib
