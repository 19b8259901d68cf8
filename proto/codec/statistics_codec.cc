#include "proto/codec/statistics_codec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

absl::Status CheckStepRows(const LayerView& layer, const LayerStatistics& statistics) {
  absl::Status status = statistics.CheckStep(StepOfRows(layer));
  if (status.ok()) return status;
  status =
      ErrorOfStep(absl::Status(status.code(), absl::StrCat("layer handle ", layer.handle, ": ", status.message())));
  return status;
}

absl::Status RowMismatch(const LayerView& layer, size_t row, const LayerStatistics& statistics) {
  const bool observes_histogram = CollectsHistogram(statistics.config().kind);
  const RowView& given = layer.rows[row];
  std::string message = absl::StrCat("layer handle ", layer.handle, ", row ", row, ": ");
  if (observes_histogram && given.histogram != nullptr) {
    absl::StrAppend(&message, "a histogram of ", given.histogram->mantissa_bits(),
                    " mantissa bits is coarser than the session's ", statistics.config().mantissa_bits,
                    "; send the session's resolution or a finer one");
  } else {
    absl::StrAppend(&message,
                    observes_histogram ? "the observer collects histograms, and none was sent"
                                       : "the observer collects no histograms, and one was sent",
                    "; send what the session's config says");
  }
  return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH, message,
                   {{"handle", absl::StrCat(layer.handle)}, {"row", absl::StrCat(row)}});
}

}  // namespace

PackedHistogramView ViewHistogram(const v1::Bfloat16Histogram& histogram) {
  PackedHistogramView view;
  view.mantissa_bits = histogram.mantissa_bits();
  view.lossless = histogram.lossless();
  view.page = absl::MakeConstSpan(histogram.page().data(), histogram.page_size());
  view.encoding = histogram.encoding();
  view.sparse_pairs = histogram.sparse_pairs();
  view.counts = histogram.counts();
  return view;
}

absl::Status CheckMergeRows(const LayerView& layer, const LayerStatistics& statistics) {
  const ObserverConfig& config = statistics.config();
  const bool observes_histogram = CollectsHistogram(config.kind);
  if (config.kind == ObserverKind::kPassive) {
    return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH,
                     absl::StrCat("layer handle ", layer.handle,
                                  ": its observer is passive and takes no data; set its parameters with SetQParams"),
                     {{"handle", absl::StrCat(layer.handle)}});
  }
  if (!config.channel_axis.has_value() && layer.rows.size() != 1) {
    return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH,
                     absl::StrCat("layer handle ", layer.handle, ": ", layer.rows.size(),
                                  " channels were sent of a layer that is observed per tensor; send one row"),
                     {{"handle", absl::StrCat(layer.handle)}});
  }
  if (DependsOnOrder(config.kind)) return CheckStepRows(layer, statistics);
  if (const absl::Status status = statistics.CheckChannelCount(layer.rows.size()); !status.ok()) {
    return MakeError(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, status, {{"handle", absl::StrCat(layer.handle)}});
  }
  for (size_t i = 0; i < layer.rows.size(); ++i) {
    const RowView& row = layer.rows[i];
    if ((row.histogram != nullptr) != observes_histogram ||
        (observes_histogram && row.histogram->mantissa_bits() < static_cast<uint32_t>(config.mantissa_bits))) {
      return RowMismatch(layer, i, statistics);
    }
    if (statistics.empty()) continue;
    if (const absl::Status status = statistics.channels()[i].range.CheckMerge(row.range); !status.ok()) {
      return MakeError(v1::ERROR_REASON_COUNT_OVERFLOW,
                       absl::StrCat("layer handle ", layer.handle, ", row ", i, ": ", status.message()),
                       {{"handle", absl::StrCat(layer.handle)}, {"row", absl::StrCat(i)}});
    }
  }
  return absl::OkStatus();
}

void MergeRows(const LayerView& layer, LayerStatistics* statistics) {
  if (DependsOnOrder(statistics->config().kind)) return statistics->FoldStep(StepOfRows(layer));
  if (statistics->empty()) {
    statistics->SetChannelCount(layer.rows.size()).IgnoreError();  // cannot fail: CheckMergeRows passed
  }
  for (size_t i = 0; i < layer.rows.size(); ++i) {
    const RowView& row = layer.rows[i];
    ChannelStatistics& channel = statistics->mutable_channels()[i];
    channel.range.Merge(row.range);
    if (row.histogram != nullptr) AddPacked(ViewHistogram(*row.histogram), &*channel.histogram);
  }
}

Step StepOfRows(const LayerView& layer) {
  Step step;
  step.ranges.reserve(layer.rows.size());
  for (const RowView& row : layer.rows) step.ranges.push_back(row.range);
  if (const v1::ReferenceHistogram* const reference = layer.rows.front().reference; reference != nullptr) {
    step.grid = {reference->low(), reference->high(), static_cast<uint32_t>(reference->count_size())};
    step.counts.assign(reference->count().begin(), reference->count().end());
  }
  return step;
}

absl::Status ErrorOfStep(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kFailedPrecondition:
      return MakeError(v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, status);
    case absl::StatusCode::kOutOfRange:
      return MakeError(v1::ERROR_REASON_COUNT_OVERFLOW, status);
    case absl::StatusCode::kAborted:
      return MakeError(v1::ERROR_REASON_REFERENCE_GRID_MISMATCH,
                       absl::StrCat(status.message(),
                                    "; another worker feeds this layer, whose result depends on order, or its observer "
                                    "was disabled meanwhile: feed it from one worker, opened after enabling it"));
    case absl::StatusCode::kResourceExhausted:
      return MakeError(v1::ERROR_REASON_REFERENCE_TOO_LARGE, status);
    default:
      return MakeError(v1::ERROR_REASON_HISTOGRAM_INVALID, status);
  }
}

absl::StatusOr<ReferenceHistogram> DecodeReferenceState(const ReferenceOptions& options, const Range& range,
                                                        const v1::ReferenceHistogram& state) {
  Range own = range;
  if (state.steps() > 0) {
    own.min = state.min();
    own.max = state.max();
  }
  return ReferenceHistogram::Restore(options, {state.low(), state.high(), static_cast<uint32_t>(state.count_size())},
                                     own, state.steps(), {state.count().begin(), state.count().end()});
}

absl::StatusOr<LearnedState> DecodeLearnedState(const LearnedOptions& options, const v1::LearnedState& state) {
  LearnedState learned;
  learned.scale = state.scale();
  learned.zero_point = state.zero_point();
  learned.scale_moments = {state.scale_average(), state.scale_square_average()};
  learned.zero_point_moments = {state.zero_point_average(), state.zero_point_square_average()};
  learned.steps = state.steps();
  if (absl::Status status = CheckLearnedState(options, learned); !status.ok()) return status;
  return learned;
}

absl::StatusOr<TensorView> DecodeTensorChunk(const v1::TensorChunk& chunk) {
  TensorView view;
  switch (chunk.data_type()) {
    case v1::DATA_TYPE_FLOAT32:
      view.type = DataType::kFloat32;
      break;
    case v1::DATA_TYPE_FLOAT16:
      view.type = DataType::kFloat16;
      break;
    case v1::DATA_TYPE_BFLOAT16:
      view.type = DataType::kBfloat16;
      break;
    default:
      return MakeError(v1::ERROR_REASON_TENSOR_INVALID,
                       absl::StrCat("no data type has the number ", static_cast<int>(chunk.data_type()),
                                    "; use float32 (1), float16 (2) or bfloat16 (3)"),
                       {{"handle", absl::StrCat(chunk.layer())}, {"field", "data_type"}});
  }
  const std::string& data = chunk.data();
  if (data.size() > kMaxTensorChunkBytes) {
    return MakeError(v1::ERROR_REASON_TENSOR_INVALID,
                     absl::StrCat(data.size(), " bytes of data are more than the ", kMaxTensorChunkBytes,
                                  " that a chunk may have; split the tensor"),
                     {{"handle", absl::StrCat(chunk.layer())}, {"field", "data"}});
  }
  if (data.size() % ElementSize(view.type) != 0) {
    return MakeError(v1::ERROR_REASON_TENSOR_INVALID,
                     absl::StrCat(data.size(), " bytes of data are not whole elements of ", DataTypeName(view.type),
                                  ", ", ElementSize(view.type), " bytes each; send whole elements"),
                     {{"handle", absl::StrCat(chunk.layer())}, {"field", "data"}});
  }
  view.shape = absl::MakeConstSpan(chunk.shape().data(), chunk.shape_size());
  view.offset = chunk.offset();
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(data.data()), data.size());
  return view;
}

}  // namespace calib
