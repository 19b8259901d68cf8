#ifndef CALIB_CLIENT_CPP_BATCH_H_
#define CALIB_CLIENT_CPP_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "calib/v1/statistics.pb.h"
#include "proto/codec/statistics_codec.h"
#include "quant/layer_statistics.h"

namespace calib::client {

// Statistics by the number of their layer.
using LayerMap = std::map<uint32_t, LayerStatistics>;

// Most bytes of statistics in a message, by an upper bound of their encoded size: well below the server's message limit
// of 4 MiB. Real histograms take about a third of the bound.
inline constexpr size_t kMaxBatchBytes = size_t{5} << 19;

// Cuts statistics into messages of bounded size.
class BatchWriter {
 public:
  // `max_bytes` as kMaxBatchBytes; one row is sent even if it is larger.
  explicit BatchWriter(size_t max_bytes = kMaxBatchBytes) : max_bytes_(max_bytes) {}

  // Moves layers out of `layers`, in rising order, until the batch is full or none is left, and returns the numbers of
  // those in the batch. At least one row is moved. A layer that is too large for one message is spread over several:
  // each has all its channels, and each channel's values are in one of them. `handle_of` must rise with the layer
  // number.
  std::vector<uint32_t> Take(absl::FunctionRef<uint32_t(uint32_t layer)> handle_of, LayerMap* layers,
                             v1::StatisticsBatch* batch);

 private:
  const size_t max_bytes_;
  StatisticsWriter writer_;
};

// All values in statistics, finite or not.
uint64_t CountValues(const LayerStatistics& statistics);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_BATCH_H_
