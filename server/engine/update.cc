#include "server/engine/update.h"

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/validate.h"

namespace calib::server {

v1::ErrorReason ReasonOfStatistics(const absl::Status& status, v1::ErrorReason otherwise) {
  switch (status.code()) {
    case absl::StatusCode::kFailedPrecondition:
      return v1::ERROR_REASON_CHANNEL_COUNT_CHANGED;
    case absl::StatusCode::kOutOfRange:
      return v1::ERROR_REASON_COUNT_OVERFLOW;
    default:
      return otherwise;
  }
}

size_t UpdateRows::channels() const {
  if (step != nullptr) return step->ranges.size();
  return observed != nullptr ? observed->channels().size() : rows.rows.size();
}

uint64_t UpdateRows::Values() const {
  uint64_t values = 0;
  const auto add = [&](const Range& range) {
    for (const uint64_t count : {range.count, range.nan, range.positive_infinity, range.negative_infinity}) {
      values = SaturatingAdd(values, count);
    }
  };
  if (step != nullptr) {
    for (const Range& range : step->ranges) add(range);
  } else if (observed != nullptr) {
    for (const ChannelStatistics& channel : observed->channels()) add(channel.range);
  } else {
    for (const RowView& row : rows.rows) add(row.range);
  }
  return values;
}

absl::Status UpdateRows::Check() const {
  const LayerStatistics empty(*binding->observer);
  const LayerStatistics& statistics = binding->layer != nullptr ? *binding->layer->statistics : empty;
  v1::ErrorReason reason;
  absl::Status status;
  if (step != nullptr) {
    status = statistics.CheckStep(*step);
    if (status.ok()) return status;
    reason = GetReason(ErrorOfStep(status));
  } else if (observed != nullptr) {
    status = statistics.CheckMerge(*observed);
    reason = ReasonOfStatistics(status, v1::ERROR_REASON_OBSERVER_MISMATCH);
  } else {
    status = CheckMergeRows(rows, statistics);
    if (status.ok()) return status;
    reason = GetReason(status);
  }
  if (status.ok()) return status;
  return MakeError(reason, absl::StrCat("layer ", Quoted(binding->name), ": ", status.message()),
                   {{"layer", binding->name}});
}

void UpdateRows::MergeInto(LayerStatistics* statistics) const {
  if (step != nullptr) {
    statistics->FoldStep(*step);
  } else if (observed != nullptr) {
    statistics->Merge(*observed);
  } else {
    MergeRows(rows, statistics);
  }
}

}  // namespace calib::server
