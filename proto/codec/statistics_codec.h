#ifndef CALIB_PROTO_CODEC_STATISTICS_CODEC_H_
#define CALIB_PROTO_CODEC_STATISTICS_CODEC_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/v1/statistics.pb.h"
#include "quant/layer_statistics.h"
#include "quant/observe.h"
#include "quant/packed_histogram.h"

namespace calib {

// One row of a StatisticsBatch: one channel of one layer. Borrows from the message.
struct RowView {
  Range range;
  bool has_histogram = false;
  PackedHistogramView histogram;
};

// The rows of one layer of a batch.
struct LayerView {
  uint32_t handle = 0;
  absl::Span<const RowView> rows;
};

// A StatisticsBatch that was checked. Borrows from the message, which must outlive it. Reusable: Decode again.
class StatisticsReader {
 public:
  // Checks everything that can be checked without knowing the layers: column lengths, handles strictly increasing, ranges
  // (min <= max, finite, not -0; zero without values), that each layer's rows have a histogram in all or none, and each
  // histogram (ValidatePacked). `has_histogram(handle)` says which layers own entries of the histogram column. Nothing is
  // kept on error: STATISTICS_INCONSISTENT, HISTOGRAM_INVALID, COUNT_OVERFLOW, naming layer handle and row.
  template <typename HasHistogram>
  absl::Status Decode(const v1::StatisticsBatch& batch, const HasHistogram& has_histogram) {
    histogram_layer_.assign(batch.layer_size(), false);
    for (int i = 0; i < batch.layer_size(); ++i) histogram_layer_[i] = has_histogram(batch.layer(i));
    return DecodeRows(batch);
  }

  absl::Span<const LayerView> layers() const { return layers_; }

 private:
  absl::Status DecodeRows(const v1::StatisticsBatch& batch);

  std::vector<char> histogram_layer_;
  std::vector<RowView> rows_;
  std::vector<LayerView> layers_;
};

// Writes layers into a StatisticsBatch, in rising handle order. Reusable.
class StatisticsWriter {
 public:
  // Appends the layer's channels. REQUIRES: handles rise.
  void Add(uint32_t handle, const LayerStatistics& statistics, v1::StatisticsBatch* batch);

 private:
  PackedHistogram packed_;
};

// Merges one layer of a batch into `statistics`, a row a channel.
// CheckMergeRows: CHANNEL_COUNT_CHANGED, OBSERVER_MISMATCH (also a coarser histogram), COUNT_OVERFLOW.
absl::Status CheckMergeRows(const LayerView& layer, const LayerStatistics& statistics);
// REQUIRES: CheckMergeRows passed.
void MergeRows(const LayerView& layer, LayerStatistics* statistics);

// A raw chunk as a view into the message; checks data type and size (TENSOR_INVALID). The rest is TensorObserver's to check.
inline constexpr size_t kMaxTensorChunkBytes = size_t{1} << 20;
absl::StatusOr<TensorView> DecodeTensorChunk(const v1::TensorChunk& chunk);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATISTICS_CODEC_H_
