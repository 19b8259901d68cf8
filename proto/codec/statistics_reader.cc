#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"

namespace calib {
namespace {

using Counts = google::protobuf::RepeatedField<uint64_t>;

absl::Status Inconsistent(absl::string_view message) {
  return MakeError(v1::ERROR_REASON_STATISTICS_INCONSISTENT, message);
}

absl::Status RowError(v1::ErrorReason reason, const LayerView& layer, size_t row, absl::string_view message) {
  return MakeError(reason, absl::StrCat("layer handle ", layer.handle, ", row ", row, ": ", message),
                   {{"handle", absl::StrCat(layer.handle)}, {"row", absl::StrCat(row)}});
}

absl::Status CheckLength(absl::string_view column, int length, uint64_t rows) {
  if (static_cast<uint64_t>(length) == rows) return absl::OkStatus();
  return Inconsistent(absl::StrCat("column `", column, "` has ", length, " entries for the batch's ", rows,
                                   " rows; every column needs one entry a row"));
}

// Of a column that only rows of one kind of observer have.
absl::Status CheckEntries(absl::string_view column, int length, absl::string_view observer, uint64_t rows) {
  if (static_cast<uint64_t>(length) == rows) return absl::OkStatus();
  return Inconsistent(absl::StrCat("column `", column, "` has ", length, " entries, but the layers with ", observer,
                                   " observer have ", rows, " rows; send one for each of these rows"));
}

// Integers in the order of the floats that they spell, -0 at -1. Floats are told by their bits because a thread may be
// in a mode in which comparisons take subnormals for zero.
int32_t Ordered(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
constexpr int32_t kNegativeZero = -1;
constexpr int32_t kGreatestFinite = 0x7f7fffff;
constexpr int32_t kLeastFinite = -kGreatestFinite - 1;

bool IsFinite(float value) { return Ordered(value) >= kLeastFinite && Ordered(value) <= kGreatestFinite; }

// Whether min and max can be those of a row with this count.
bool PlausibleExtremes(uint64_t count, float min, float max) {
  const int32_t least = Ordered(min);
  const int32_t greatest = Ordered(max);
  if (count == 0) return least == 0 && greatest == 0;
  return kLeastFinite <= least && least <= greatest && greatest <= kGreatestFinite && least != kNegativeZero &&
         greatest != kNegativeZero;
}

std::string WhyImplausible(uint64_t count, float min, float max) {
  if (count == 0) return absl::StrCat("min ", min, " and max ", max, " without a finite value; send 0 for both");
  if (!IsFinite(min) || !IsFinite(max)) {
    return absl::StrCat("min ", min, " and max ", max, " must be finite; count NaN and infinities apart");
  }
  if (Ordered(max) < Ordered(min) && Ordered(max) != kNegativeZero) {
    return absl::StrCat("min ", min, " is greater than max ", max);
  }
  return "-0 as min or max; send +0";
}

// The columns of ranges, by their first entries; null for those left out.
struct RangeColumns {
  explicit RangeColumns(const v1::StatisticsBatch& batch)
      : count(batch.count().data()),
        min(batch.min().data()),
        max(batch.max().data()),
        nan(batch.nan().empty() ? nullptr : batch.nan().data()),
        positive_infinity(batch.positive_infinity().empty() ? nullptr : batch.positive_infinity().data()),
        negative_infinity(batch.negative_infinity().empty() ? nullptr : batch.negative_infinity().data()) {}

  const uint64_t* count;
  const float* min;
  const float* max;
  const uint64_t* nan;
  const uint64_t* positive_infinity;
  const uint64_t* negative_infinity;
};

bool AddWithoutWrap(uint64_t value, uint64_t* sum) {
  *sum += value;
  return *sum >= value;
}

// Whether values() is right.
bool CountsFit(const Range& range) {
  uint64_t values = range.count;
  return AddWithoutWrap(range.nan, &values) && AddWithoutWrap(range.positive_infinity, &values) &&
         AddWithoutWrap(range.negative_infinity, &values);
}

// Reads a row; returns whether it is as it must be.
bool ReadRange(const RangeColumns& columns, size_t row, Range* range) {
  *range = Range{};
  range->count = columns.count[row];
  if (range->count != 0) {
    range->min = columns.min[row];
    range->max = columns.max[row];
  }
  if (columns.nan != nullptr) range->nan = columns.nan[row];
  if (columns.positive_infinity != nullptr) range->positive_infinity = columns.positive_infinity[row];
  if (columns.negative_infinity != nullptr) range->negative_infinity = columns.negative_infinity[row];
  return PlausibleExtremes(columns.count[row], columns.min[row], columns.max[row]) && CountsFit(*range);
}

// What is wrong with a row that ReadRange did not take.
absl::Status RangeError(const RangeColumns& columns, const LayerView& layer, size_t row, size_t batch_row) {
  const uint64_t count = columns.count[batch_row];
  const float min = columns.min[batch_row];
  const float max = columns.max[batch_row];
  if (!PlausibleExtremes(count, min, max)) {
    return RowError(v1::ERROR_REASON_STATISTICS_INCONSISTENT, layer, row, WhyImplausible(count, min, max));
  }
  return RowError(v1::ERROR_REASON_COUNT_OVERFLOW, layer, row,
                  "finite values, NaN and infinities add up to more than 2^64 - 1");
}

absl::Status CheckHistogram(const LayerView& layer, size_t row, const RowView& view) {
  absl::Status status = ValidatePacked(ViewHistogram(*view.histogram), view.range);
  if (status.ok()) return status;
  return RowError(absl::IsOutOfRange(status) ? v1::ERROR_REASON_COUNT_OVERFLOW : v1::ERROR_REASON_HISTOGRAM_INVALID,
                  layer, row, status.message());
}

absl::Status CheckStepCounts(const LayerView& layer, size_t row, const v1::ReferenceHistogram& step) {
  constexpr double kMostCount = 0x1p53;  // whole numbers up to here are exact
  const auto error = [&](absl::string_view message) {
    return RowError(v1::ERROR_REASON_HISTOGRAM_INVALID, layer, row, message);
  };
  if (step.steps() != 0 || step.min() != 0 || step.max() != 0) {
    return error("steps, min and max are the server's to tell; leave them out of a step");
  }
  for (const double count : step.count()) {
    if (!(count >= 0 && count <= kMostCount && count == std::floor(count))) {
      return error(absl::StrCat("count ", count, " is not a whole number from 0 to 2^53"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status StatisticsReader::CheckColumns(const v1::StatisticsBatch& batch) const {
  for (int i = 1; i < batch.layer_size(); ++i) {
    if (batch.layer(i) > batch.layer(i - 1)) continue;
    return MakeError(v1::ERROR_REASON_STATISTICS_INCONSISTENT,
                     absl::StrCat("layer handle ", batch.layer(i), " comes after ", batch.layer(i - 1),
                                  "; the handles of a batch must rise"),
                     {{"handle", absl::StrCat(batch.layer(i))}});
  }
  const bool has_channels = !batch.channels().empty();
  if (has_channels && batch.channels_size() != batch.layer_size()) {
    return Inconsistent(absl::StrCat("column `channels` has ", batch.channels_size(), " entries for ",
                                     batch.layer_size(), " layers; send one a layer, or none"));
  }
  // Sums of 32-bit numbers, at most one for each byte of a message: far below 2^64.
  uint64_t rows = 0;
  uint64_t histograms = 0;
  uint64_t references = 0;
  uint64_t emas = 0;
  uint64_t passives = 0;
  for (int i = 0; i < batch.layer_size(); ++i) {
    const uint64_t channels = has_channels ? batch.channels(i) : 1;
    if (channels == 0) {
      return MakeError(v1::ERROR_REASON_STATISTICS_INCONSISTENT,
                       absl::StrCat("layer handle ", batch.layer(i), " has 0 channels; leave the layer out"),
                       {{"handle", absl::StrCat(batch.layer(i))}});
    }
    rows += channels;
    if (CollectsHistogram(kinds_[i])) histograms += channels;
    if (kinds_[i] == ObserverKind::kReferenceHistogram) references += channels;
    if (kinds_[i] == ObserverKind::kEma) emas += channels;
    if (kinds_[i] == ObserverKind::kPassive) passives += channels;
  }
  if (absl::Status status = CheckLength("count", batch.count_size(), rows); !status.ok()) return status;
  if (absl::Status status = CheckLength("min", batch.min_size(), rows); !status.ok()) return status;
  if (absl::Status status = CheckLength("max", batch.max_size(), rows); !status.ok()) return status;
  const auto check_optional = [rows](absl::string_view column, const Counts& counts) {
    return counts.empty() ? absl::OkStatus() : CheckLength(column, counts.size(), rows);
  };
  if (absl::Status status = check_optional("nan", batch.nan()); !status.ok()) return status;
  if (absl::Status status = check_optional("positive_infinity", batch.positive_infinity()); !status.ok()) return status;
  if (absl::Status status = check_optional("negative_infinity", batch.negative_infinity()); !status.ok()) return status;
  if (absl::Status status = CheckEntries("histogram", batch.histogram_size(), "a histogram", histograms);
      !status.ok()) {
    return status;
  }
  if (absl::Status status =
          CheckEntries("reference_histogram", batch.reference_histogram_size(), "a reference histogram", references);
      !status.ok()) {
    return status;
  }
  return CheckServerColumns(batch, rows, emas, passives);
}

absl::Status StatisticsReader::CheckServerColumns(const v1::StatisticsBatch& batch, uint64_t rows, uint64_t emas,
                                                  uint64_t passives) const {
  if (form_ == BatchForm::kState) {
    if (absl::Status status = CheckEntries("ema", batch.ema_size(), "an ema", emas); !status.ok()) return status;
    if (absl::Status status = CheckEntries("passive", batch.passive_size(), "a passive", passives); !status.ok()) {
      return status;
    }
    if (static_cast<uint64_t>(batch.learned_size()) <= rows) return absl::OkStatus();
    return Inconsistent(
        absl::StrCat("column `learned` has ", batch.learned_size(), " entries for the batch's ", rows, " rows"));
  }
  if (!batch.ema().empty()) {
    return Inconsistent(
        "column `ema` is not empty; a step of such a layer is its min and max, the average is the server's to take");
  }
  if (!batch.learned().empty()) {
    return Inconsistent("column `learned` is not empty; what is learned is the server's to tell, send gradients");
  }
  if (!batch.passive().empty()) {
    return Inconsistent("column `passive` is not empty; a passive observer's parameters are set with SetQParams");
  }
  return absl::OkStatus();
}

void StatisticsReader::MakeLayers(const v1::StatisticsBatch& batch) {
  const size_t rows = static_cast<size_t>(batch.count_size());
  if (rows_.capacity() > kKeptRows) std::vector<RowView>().swap(rows_);
  // Never made smaller: rows that are there need not be made again.
  if (rows_.size() < rows) rows_.resize(rows);
  layers_.resize(batch.layer_size());
  size_t begin = 0;
  for (int i = 0; i < batch.layer_size(); ++i) {
    const size_t channels = batch.channels().empty() ? 1 : batch.channels(i);
    layers_[i] = {batch.layer(i), absl::MakeConstSpan(rows_).subspan(begin, channels)};
    begin += channels;
  }
}

absl::Status StatisticsReader::DecodeRows(const v1::StatisticsBatch& batch) {
  layers_.clear();
  if (absl::Status status = CheckColumns(batch); !status.ok()) return status;
  MakeLayers(batch);
  const RangeColumns columns(batch);
  size_t batch_row = 0;
  int next_histogram = 0;
  int next_reference = 0;
  absl::Status status;
  for (size_t i = 0; i < layers_.size() && status.ok(); ++i) {
    const LayerView& layer = layers_[i];
    for (size_t row = 0; row < layer.rows.size() && status.ok(); ++row, ++batch_row) {
      RowView& view = rows_[batch_row];
      view.histogram = CollectsHistogram(kinds_[i]) ? &batch.histogram(next_histogram++) : nullptr;
      view.reference =
          kinds_[i] == ObserverKind::kReferenceHistogram ? &batch.reference_histogram(next_reference++) : nullptr;
      if (!ReadRange(columns, batch_row, &view.range)) {
        status = RangeError(columns, layer, row, batch_row);
      } else if (view.histogram != nullptr) {
        status = CheckHistogram(layer, row, view);
      } else if (view.reference != nullptr && form_ == BatchForm::kUpdate) {
        status = CheckStepCounts(layer, row, *view.reference);
      }
    }
  }
  if (!status.ok()) layers_.clear();
  return status;
}

}  // namespace calib
