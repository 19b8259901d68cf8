#include "quant/layer_statistics.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace calib {

ChannelStatistics ChannelStatistics::Empty(const ObserverConfig& config) {
  ChannelStatistics empty;
  switch (config.kind) {
    case ObserverKind::kHistogram:
    case ObserverKind::kLearned:
      empty.histogram.emplace(config.mantissa_bits);
      break;
    case ObserverKind::kEma:
      empty.ema.emplace();
      break;
    case ObserverKind::kReferenceHistogram:
      empty.reference.emplace(config.reference);
      break;
    case ObserverKind::kMinMax:
    case ObserverKind::kPassive:
      break;
  }
  return empty;
}

Range ChannelStatistics::ObservedRange() const {
  Range observed = range;
  if (range.empty()) return observed;
  if (ema.has_value()) {
    observed.min = ema->min;
    observed.max = ema->max;
  }
  if (reference.has_value()) {
    observed.min = reference->range().min;
    observed.max = reference->range().max;
  }
  return observed;
}

absl::Status ChannelStatistics::CheckMerge(const ChannelStatistics& other) const {
  for (const ChannelStatistics* const side : {this, &other}) {
    if (side->ema.has_value() || side->reference.has_value() || side->passive.has_value()) {
      return absl::InvalidArgumentError("an observer that depends on order, or is passive, can't be merged");
    }
  }
  if (histogram.has_value() != other.histogram.has_value()) {
    return absl::InvalidArgumentError(other.histogram.has_value()
                                          ? "statistics with a histogram cannot be added to a minmax observer"
                                          : "statistics without a histogram cannot be added to a histogram observer");
  }
  if (histogram.has_value()) {
    if (absl::Status status = histogram->CheckMerge(*other.histogram); !status.ok()) return status;
  }
  return range.CheckMerge(other.range);
}

void ChannelStatistics::Merge(const ChannelStatistics& other) {
  range.Merge(other.range);
  if (histogram.has_value()) histogram->Merge(*other.histogram);
}

absl::Status LayerStatistics::CheckChannelCount(size_t channels) const {
  if (channels_.empty() || channels_.size() == channels) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the layer has ", channels_.size(), " channels and was now given ",
                                                    channels,
                                                    "; a layer's channel count cannot change, use another layer name"));
}

absl::Status LayerStatistics::SetChannelCount(size_t channels) {
  if (absl::Status status = CheckChannelCount(channels); !status.ok()) return status;
  if (channels_.size() == channels) return absl::OkStatus();
  channels_.assign(channels, ChannelStatistics::Empty(config_));
  return absl::OkStatus();
}

absl::Status LayerStatistics::CheckMerge(const LayerStatistics& other) const {
  if (other.empty()) return absl::OkStatus();
  for (const ChannelStatistics& channel : other.channels_) {
    if (channel.learned.has_value()) {
      return absl::InvalidArgumentError("what an observer has learned can't be merged");
    }
  }
  if (absl::Status status = CheckChannelCount(other.channels_.size()); !status.ok()) return status;
  if (empty()) return ChannelStatistics::Empty(config_).CheckMerge(other.channels_.front());
  for (size_t i = 0; i < channels_.size(); ++i) {
    if (absl::Status status = channels_[i].CheckMerge(other.channels_[i]); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("channel ", i, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

void LayerStatistics::Merge(const LayerStatistics& other) {
  if (other.empty()) return;
  if (empty()) SetChannelCount(other.channels_.size()).IgnoreError();  // cannot fail: CheckMerge passed
  for (size_t i = 0; i < channels_.size(); ++i) channels_[i].Merge(other.channels_[i]);
}

absl::StatusOr<ReferenceGrid> LayerStatistics::NextGrid(const Range& step) const {
  if (config_.kind != ObserverKind::kReferenceHistogram) return ReferenceGrid();
  return empty() ? ReferenceHistogram(config_.reference).NextGrid(step) : channels_.front().reference->NextGrid(step);
}

absl::Status LayerStatistics::CheckStep(const Step& step) const {
  if (!DependsOnOrder(config_.kind)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a ", ObserverKindName(config_.kind), " observer takes no steps; its statistics merge"));
  }
  if (config_.kind == ObserverKind::kReferenceHistogram && step.ranges.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a step of a reference histogram has one range, not ", step.ranges.size()));
  }
  if (absl::Status status = CheckChannelCount(step.ranges.size()); !status.ok()) return status;
  for (size_t i = 0; i < channels_.size(); ++i) {
    if (absl::Status status = channels_[i].range.CheckMerge(step.ranges[i]); !status.ok()) return status;
  }
  if (config_.kind != ObserverKind::kReferenceHistogram) {
    if (step.counts.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("counts were given to an observer that is no reference histogram");
  }
  const absl::StatusOr<ReferenceGrid> grid = NextGrid(step.ranges.front());
  if (!grid.ok()) return grid.status();
  if (*grid != step.grid) {
    return absl::AbortedError(absl::StrFormat(
        "the step was counted on %d bins from %.17g to %.17g, but the layer's state asks for %d from %.17g to %.17g",
        step.grid.bins, step.grid.low, step.grid.high, grid->bins, grid->low, grid->high));
  }
  if (step.counts.size() != grid->bins) {
    return absl::InvalidArgumentError(
        absl::StrCat(step.counts.size(), " counts were given for a grid of ", grid->bins, " bins"));
  }
  uint64_t left = step.ranges.front().count;
  for (const uint64_t count : step.counts) {
    if (count > left) {
      return absl::InvalidArgumentError(
          absl::StrCat("the step's counts add up to more than its ", step.ranges.front().count, " finite values"));
    }
    left -= count;
  }
  return absl::OkStatus();
}

void LayerStatistics::FoldStep(const Step& step) {
  if (empty()) SetChannelCount(step.ranges.size()).IgnoreError();  // cannot fail: CheckStep passed
  for (size_t i = 0; i < channels_.size(); ++i) {
    ChannelStatistics& channel = channels_[i];
    channel.range.Merge(step.ranges[i]);
    if (channel.ema.has_value()) channel.ema->Fold(config_.ema, step.ranges[i]);
    if (channel.reference.has_value()) {
      channel.reference->Fold(step.ranges[i], step.grid, step.counts).IgnoreError();  // CheckStep passed
    }
  }
}

void LayerStatistics::SetPassive(absl::Span<const QParams> params) {
  channels_.assign(params.size(), ChannelStatistics());
  for (size_t i = 0; i < params.size(); ++i) channels_[i].passive = params[i];
}

absl::StatusOr<ChannelStatistics> LayerStatistics::MergedChannels() const {
  ChannelStatistics merged = ChannelStatistics::Empty(config_);
  for (const ChannelStatistics& channel : channels_) {
    if (absl::Status status = merged.CheckMerge(channel); !status.ok()) return status;
    merged.Merge(channel);
  }
  return merged;
}

size_t LayerStatistics::MemoryBytes() const {
  size_t bytes = sizeof(*this) + config_.learned.HeapBytes() + channels_.capacity() * sizeof(ChannelStatistics);
  for (const ChannelStatistics& channel : channels_) {
    if (channel.histogram.has_value()) bytes += channel.histogram->MemoryBytes() - sizeof(Bfloat16Histogram);
    if (channel.reference.has_value()) bytes += channel.reference->MemoryBytes() - sizeof(ReferenceHistogram);
    bytes += channel.learned.HeapBytes();
  }
  return bytes;
}

}  // namespace calib
