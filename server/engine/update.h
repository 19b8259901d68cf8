#ifndef CALIB_SERVER_ENGINE_UPDATE_H_
#define CALIB_SERVER_ENGINE_UPDATE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "calib/v1/errors.pb.h"
#include "proto/codec/statistics_codec.h"
#include "quant/layer_statistics.h"
#include "server/engine/layer.h"

namespace calib::server {

// What an update carries of one layer: statistics as sent in `rows`, or, when `observed` or, for an observer that
// depends on order, `step` is set, as reduced from a raw chunk by the binding's observer. Borrows all of it.
struct UpdateRows {
  LayerBinding* binding = nullptr;  // REQUIRES: not skipped
  LayerView rows;
  const LayerStatistics* observed = nullptr;
  const Step* step = nullptr;

  size_t channels() const;
  // All values, finite or not; 2^64 - 1 when they are more.
  uint64_t Values() const;
  // Whether they may be merged into the layer, or into its empty statistics when it does not exist yet:
  // CHANNEL_COUNT_CHANGED, OBSERVER_MISMATCH, COUNT_OVERFLOW, REFERENCE_GRID_MISMATCH, REFERENCE_TOO_LARGE,
  // HISTOGRAM_INVALID, naming the layer.
  absl::Status Check() const;
  // REQUIRES: Check() passed.
  void MergeInto(LayerStatistics* statistics) const;
};

// An update after decoding, with its stream's handles resolved.
struct DecodedUpdate {
  uint64_t first = 0;
  uint64_t last = 0;
  uint64_t bytes = 0;              // of its message
  std::vector<UpdateRows> layers;  // each layer at most once
};

// Why statistics of quant/ refused what they were given: CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW, or `otherwise`.
v1::ErrorReason ReasonOfStatistics(const absl::Status& status, v1::ErrorReason otherwise);

// min(a + b, 2^64 - 1).
inline uint64_t SaturatingAdd(uint64_t a, uint64_t b) { return a + b < a ? ~uint64_t{0} : a + b; }

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_UPDATE_H_
