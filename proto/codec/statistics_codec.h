#ifndef CALIB_PROTO_CODEC_STATISTICS_CODEC_H_
#define CALIB_PROTO_CODEC_STATISTICS_CODEC_H_

#include <cstddef>
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
  const v1::Bfloat16Histogram* histogram = nullptr;  // null without one; ViewHistogram reads it
};

// A histogram message as quant's view; borrows from it.
PackedHistogramView ViewHistogram(const v1::Bfloat16Histogram& histogram);

// The rows of one layer of a batch.
struct LayerView {
  uint32_t handle = 0;
  absl::Span<const RowView> rows;
};

// A StatisticsBatch that was checked. Borrows from the message, which must outlive it. Reusable: Decode again.
// Allocates nothing for batches of up to kKeptRows rows once a batch as large was seen; the memory of larger ones is
// not kept.
class StatisticsReader {
 public:
  static constexpr size_t kKeptRows = 65536;

  // Checks everything that can be checked without knowing the layers: column lengths, handles strictly increasing,
  // ranges (min <= max, finite, not -0; zero without values), that the histogram column has an entry for each row of
  // the layers that own entries, and each histogram (ValidatePacked). `has_histogram(handle)` says which layers own
  // entries; it is asked before anything is checked, so about any handle. Nothing is kept on error:
  // STATISTICS_INCONSISTENT, HISTOGRAM_INVALID, COUNT_OVERFLOW, naming layer handle and row.
  template <typename HasHistogram>
  absl::Status Decode(const v1::StatisticsBatch& batch, const HasHistogram& has_histogram) {
    histogram_layer_.resize(batch.layer_size());
    for (int i = 0; i < batch.layer_size(); ++i) histogram_layer_[i] = has_histogram(batch.layer(i));
    return DecodeRows(batch);
  }

  // In rising handle order; each has at least one row.
  absl::Span<const LayerView> layers() const { return layers_; }

 private:
  absl::Status DecodeRows(const v1::StatisticsBatch& batch);
  absl::Status CheckColumns(const v1::StatisticsBatch& batch) const;
  void MakeLayers(const v1::StatisticsBatch& batch);

  std::vector<char> histogram_layer_;  // of each layer: whether its rows have histograms
  std::vector<RowView> rows_;
  std::vector<LayerView> layers_;
};

// Writes layers into a StatisticsBatch, in rising handle order. Reusable; allocates nothing once batch and writer have
// grown.
class StatisticsWriter {
 public:
  // Appends the layer's channels; nothing when it has none. Equal layers give equal batches, whatever their history.
  // REQUIRES: handles rise.
  void Add(uint32_t handle, const LayerStatistics& statistics, v1::StatisticsBatch* batch);

 private:
  PackedHistogram packed_;
};

// Merges one layer of a batch into `statistics`, a row a channel. CheckMergeRows: CHANNEL_COUNT_CHANGED,
// OBSERVER_MISMATCH (also a coarser histogram, or several rows for a layer observed per tensor), COUNT_OVERFLOW.
absl::Status CheckMergeRows(const LayerView& layer, const LayerStatistics& statistics);
// REQUIRES: CheckMergeRows passed.
void MergeRows(const LayerView& layer, LayerStatistics* statistics);

// A raw chunk as a view into the message; checks data type and size (TENSOR_INVALID). The rest is TensorObserver's to
// check, and the channel axis the caller's.
inline constexpr size_t kMaxTensorChunkBytes = size_t{1} << 20;
absl::StatusOr<TensorView> DecodeTensorChunk(const v1::TensorChunk& chunk);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATISTICS_CODEC_H_
