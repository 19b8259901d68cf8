#include "proto/codec/state_codec.h"

#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

absl::Status StateRowError(size_t row, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("row ", row, ": ", message));
}

absl::Status SetEma(const v1::EmaRange& message, const Range& range, EmaRange* ema) {
  *ema = {.min = message.min(), .max = message.max(), .steps = message.steps()};
  if (!std::isfinite(ema->min) || !std::isfinite(ema->max) || ema->min > ema->max) {
    return absl::InvalidArgumentError(
        absl::StrCat("averages from ", ema->min, " to ", ema->max, " are not finite and in this order"));
  }
  // Each step that was folded in had a value.
  if (ema->steps > range.count || (ema->steps == 0) != range.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no average of ", ema->steps, " steps has seen ", range.count, " values"));
  }
  if (ema->steps == 0 && (ema->min != 0 || ema->max != 0)) {
    return absl::InvalidArgumentError("an average of no steps must be 0");
  }
  return absl::OkStatus();
}

absl::Status SetPassive(const v1::PassiveParams& message, const Range& range, std::optional<QParams>* passive) {
  if (!std::isfinite(message.scale()) || message.scale() <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(message.scale(), " is no scale: it must be finite and above 0"));
  }
  if (range != Range()) return absl::InvalidArgumentError("a passive observer counts no values");
  *passive = QParams{message.scale(), message.zero_point()};
  return absl::OkStatus();
}

absl::Status SetHistogram(const v1::Bfloat16Histogram& message, Bfloat16Histogram* histogram) {
  if (message.mantissa_bits() != static_cast<uint32_t>(histogram->mantissa_bits())) {
    return absl::InvalidArgumentError(absl::StrCat("a histogram of ", message.mantissa_bits(),
                                                   " mantissa bits, where the observer has ",
                                                   histogram->mantissa_bits()));
  }
  AddPacked(ViewHistogram(message), histogram);
  return absl::OkStatus();
}

// One channel, all but what it has learned.
absl::Status SetChannel(const ObserverConfig& observer, const v1::StatisticsBatch& batch, int row, const RowView& view,
                        ChannelStatistics* channel) {
  channel->range = view.range;
  if (channel->histogram.has_value()) {
    if (absl::Status status = SetHistogram(*view.histogram, &*channel->histogram); !status.ok()) return status;
  }
  if (channel->ema.has_value()) {
    if (absl::Status status = SetEma(batch.ema(row), view.range, &*channel->ema); !status.ok()) return status;
  }
  if (channel->reference.has_value()) {
    absl::StatusOr<ReferenceHistogram> reference =
        DecodeReferenceState(observer.reference, view.range, *view.reference);
    if (!reference.ok()) return reference.status();
    channel->reference = *std::move(reference);
  }
  if (observer.kind != ObserverKind::kPassive) return absl::OkStatus();
  return SetPassive(batch.passive(row), view.range, &channel->passive);
}

// An observer learns all of its channels at once.
absl::Status SetLearned(const v1::StatisticsBatch& batch, LayerStatistics* statistics) {
  if (batch.learned().empty()) return absl::OkStatus();
  if (statistics->config().kind != ObserverKind::kLearned) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", ObserverKindName(statistics->config().kind), " observer learns nothing"));
  }
  if (static_cast<size_t>(batch.learned_size()) != statistics->channels().size()) {
    return absl::InvalidArgumentError(absl::StrCat("column `learned` has ", batch.learned_size(), " entries for ",
                                                   statistics->channels().size(), " rows; all learn, or none"));
  }
  for (int row = 0; row < batch.learned_size(); ++row) {
    const v1::LearnedState& message = batch.learned(row);
    if (message.row() != static_cast<uint32_t>(row)) {
      return StateRowError(row, absl::StrCat("what is learned names row ", message.row()));
    }
    if (message.steps() != batch.learned(0).steps()) {
      return StateRowError(row, absl::StrCat("learned ", message.steps(), " steps, and row 0 ",
                                             batch.learned(0).steps(), "; they learn together"));
    }
    absl::StatusOr<LearnedState> learned = DecodeLearnedState(*statistics->config().learned, message);
    if (!learned.ok()) return StateRowError(row, learned.status().message());
    statistics->mutable_channels()[row].learned = *std::move(learned);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LayerStatistics> DecodeLayerState(const ObserverConfig& observer, const v1::StatisticsBatch& batch) {
  StatisticsReader reader(BatchForm::kState);
  if (absl::Status status = reader.Decode(batch, [&](uint32_t) { return observer.kind; }); !status.ok()) {
    return absl::InvalidArgumentError(status.message());
  }
  LayerStatistics statistics(observer);
  if (reader.layers().empty()) return statistics;
  if (reader.layers().size() > 1 || reader.layers().front().handle != 0) {
    return absl::InvalidArgumentError(absl::StrCat("one layer with handle 0 was expected, not ", batch.layer_size(),
                                                   " from handle ", batch.layer(0), " on"));
  }
  const absl::Span<const RowView> rows = reader.layers().front().rows;
  // A passive observer has as many as were set.
  if (rows.size() != 1 && !observer.channel_axis.has_value() && observer.kind != ObserverKind::kPassive) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows.size(), " rows of a layer that is observed per tensor, which has one"));
  }
  if (absl::Status status = statistics.SetChannelCount(rows.size()); !status.ok()) return status;
  for (size_t i = 0; i < rows.size(); ++i) {
    const absl::Status status =
        SetChannel(observer, batch, static_cast<int>(i), rows[i], &statistics.mutable_channels()[i]);
    if (!status.ok()) return StateRowError(i, status.message());
  }
  if (absl::Status status = SetLearned(batch, &statistics); !status.ok()) return status;
  return statistics;
}

}  // namespace calib
