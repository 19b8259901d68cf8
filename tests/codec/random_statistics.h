#ifndef CALIB_TESTS_CODEC_RANDOM_STATISTICS_H_
#define CALIB_TESTS_CODEC_RANDOM_STATISTICS_H_

#include <cstdint>
#include <map>
#include <vector>

#include "calib/v1/statistics.pb.h"
#include "quant/layer_statistics.h"
#include "tests/support/random_tensors.h"

namespace calib::test {

// Statistics of these values; with a channel axis in `config`, they are rows of `channels` values, one a channel.
LayerStatistics Observe(const ObserverConfig& config, const std::vector<float>& values, uint64_t channels = 1);

// In these tests a layer's statistics have a histogram iff its handle is even; every fourth of these is learned.
inline bool IsHistogramHandle(uint32_t handle) { return handle % 2 == 0; }
inline ObserverKind KindOfHandle(uint32_t handle) {
  if (!IsHistogramHandle(handle)) return ObserverKind::kMinMax;
  return handle % 8 == 6 ? ObserverKind::kLearned : ObserverKind::kHistogram;
}

// Up to `layers` layers by handle, of any kind, per tensor and per channel, of few random values; some have none.
std::map<uint32_t, LayerStatistics> RandomLayers(Rng& rng, int layers, int mantissa_bits);

// The layers as a batch.
v1::StatisticsBatch Encode(const std::map<uint32_t, LayerStatistics>& layers);

}  // namespace calib::test

#endif  // CALIB_TESTS_CODEC_RANDOM_STATISTICS_H_
