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
  const v1::Bfloat16Histogram* histogram = nullptr;   // null without one; ViewHistogram reads it
  const v1::ReferenceHistogram* reference = nullptr;  // a step's counts, or a state; null without
};

// A histogram message as quant's view; borrows from it.
PackedHistogramView ViewHistogram(const v1::Bfloat16Histogram& histogram);

// The rows of one layer of a batch.
struct LayerView {
  uint32_t handle = 0;
  absl::Span<const RowView> rows;
};

// What a batch is. Columns that the server alone has anything to say in (ema, learned, passive, what a reference
// histogram holds beside its counts) are refused in an update and read in a state.
enum class BatchForm : uint8_t {
  kUpdate,  // what a client adds
  kState,   // what observers hold, as StatisticsWriter::Add writes it
};

// A StatisticsBatch that was checked. Borrows from the message, which must outlive it. Reusable: Decode again.
// Allocates nothing for batches of up to kKeptRows rows once a batch as large was seen; the memory of larger ones is
// not kept.
class StatisticsReader {
 public:
  static constexpr size_t kKeptRows = 65536;

  explicit StatisticsReader(BatchForm form = BatchForm::kUpdate) : form_(form) {}

  // Checks everything that can be checked without knowing the layers: column lengths, handles strictly increasing,
  // ranges (min <= max, finite, not -0; zero without values), that each histogram column has an entry for each row of
  // the layers that own entries, each histogram (ValidatePacked) and, in an update, each step's counts; of a state's
  // ema, reference_histogram, learned and passive no more than their number. `kind_of(handle)` tells a layer's
  // ObserverKind; it is asked before anything is checked, so about any handle. Nothing is kept on error:
  // STATISTICS_INCONSISTENT, HISTOGRAM_INVALID, COUNT_OVERFLOW, naming layer handle and row.
  template <typename KindOf>
  absl::Status Decode(const v1::StatisticsBatch& batch, const KindOf& kind_of) {
    kinds_.resize(batch.layer_size());
    for (int i = 0; i < batch.layer_size(); ++i) kinds_[i] = kind_of(batch.layer(i));
    return DecodeRows(batch);
  }

  // In rising handle order; each has at least one row.
  absl::Span<const LayerView> layers() const { return layers_; }

 private:
  absl::Status DecodeRows(const v1::StatisticsBatch& batch);
  absl::Status CheckColumns(const v1::StatisticsBatch& batch) const;
  absl::Status CheckServerColumns(const v1::StatisticsBatch& batch, uint64_t rows, uint64_t emas,
                                  uint64_t passives) const;
  void MakeLayers(const v1::StatisticsBatch& batch);

  const BatchForm form_;
  std::vector<ObserverKind> kinds_;  // of each layer
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
  // Appends one step of a layer whose observer depends on order; `reference_histogram` says whether it is one.
  void AddStep(uint32_t handle, const Step& step, bool reference_histogram, v1::StatisticsBatch* batch);

 private:
  PackedHistogram packed_;
};

// Merges one layer of a batch into `statistics`, a row a channel, or folds it in as one step when its observer depends
// on order. CheckMergeRows: CHANNEL_COUNT_CHANGED, OBSERVER_MISMATCH (also a coarser histogram, several rows for a
// layer observed per tensor, data for a passive observer), COUNT_OVERFLOW, and as ErrorOfStep.
absl::Status CheckMergeRows(const LayerView& layer, const LayerStatistics& statistics);
// REQUIRES: CheckMergeRows passed.
void MergeRows(const LayerView& layer, LayerStatistics* statistics);

// The rows of one layer of a batch as a step. REQUIRES: the batch was decoded with this layer's observer.
Step StepOfRows(const LayerView& layer);
// An error of LayerStatistics::CheckStep or NextGrid with its reason: CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW,
// REFERENCE_GRID_MISMATCH, REFERENCE_TOO_LARGE, HISTOGRAM_INVALID.
absl::Status ErrorOfStep(const absl::Status& status);
// What a layer's observer holds as a v1::ReferenceHistogram says it. INVALID_ARGUMENT when no such state can be.
absl::StatusOr<ReferenceHistogram> DecodeReferenceState(const ReferenceOptions& options, const Range& range,
                                                        const v1::ReferenceHistogram& state);

// What a learned observer holds of a channel as a v1::LearnedState says it. INVALID_ARGUMENT when no such state can be.
// REQUIRES: CheckLearnedOptions(options).ok().
absl::StatusOr<LearnedState> DecodeLearnedState(const LearnedOptions& options, const v1::LearnedState& state);

// A raw chunk as a view into the message; checks data type and size (TENSOR_INVALID). The rest is TensorObserver's to
// check, and the channel axis the caller's.
inline constexpr size_t kMaxTensorChunkBytes = size_t{1} << 20;
absl::StatusOr<TensorView> DecodeTensorChunk(const v1::TensorChunk& chunk);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATISTICS_CODEC_H_
