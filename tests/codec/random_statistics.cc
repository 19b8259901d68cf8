#include "tests/codec/random_statistics.h"

#include <array>
#include <cstdlib>

#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"

namespace calib::test {

LayerStatistics Observe(const ObserverConfig& config, const std::vector<float>& values, uint64_t channels) {
  LayerStatistics statistics(config);
  const std::array<uint64_t, 2> shape = {values.size() / channels, channels};
  TensorView view;
  view.shape = shape;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  TensorObserver observer;
  const absl::Status status = observer.Observe(view, &statistics);
  if (!status.ok()) std::abort();
  return statistics;
}

std::map<uint32_t, LayerStatistics> RandomLayers(Rng& rng, int layers, int mantissa_bits) {
  std::map<uint32_t, LayerStatistics> made;
  for (int i = 0; i < layers; ++i) {
    const auto handle = static_cast<uint32_t>(rng() % 1000);
    ObserverConfig config;
    config.kind = KindOfHandle(handle);
    config.mantissa_bits = mantissa_bits;
    uint64_t channels = 1;
    if (rng() % 3 == 0) {
      config.channel_axis = 1;
      channels = 1 + rng() % 6;
    }
    const size_t values = rng() % 5 == 0 ? 0 : channels * (1 + rng() % 40);
    made.insert_or_assign(handle, Observe(config, RandomTensor(rng, values, rng() % 2 == 0), channels));
  }
  return made;
}

v1::StatisticsBatch Encode(const std::map<uint32_t, LayerStatistics>& layers) {
  v1::StatisticsBatch batch;
  StatisticsWriter writer;
  for (const auto& [handle, statistics] : layers) writer.Add(handle, statistics, &batch);
  return batch;
}

}  // namespace calib::test
