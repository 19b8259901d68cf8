#include "quant/layer_statistics.h"

#include "absl/strings/str_cat.h"

namespace calib {

absl::Status ChannelStatistics::CheckMerge(const ChannelStatistics& other) const {
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
  ChannelStatistics empty;
  if (config_.kind == ObserverKind::kHistogram) empty.histogram.emplace(config_.mantissa_bits);
  channels_.assign(channels, empty);
  return absl::OkStatus();
}

absl::Status LayerStatistics::CheckMerge(const LayerStatistics& other) const {
  if (other.empty()) return absl::OkStatus();
  if (absl::Status status = CheckChannelCount(other.channels_.size()); !status.ok()) return status;
  if (empty()) {
    ChannelStatistics fresh;
    if (config_.kind == ObserverKind::kHistogram) fresh.histogram.emplace(config_.mantissa_bits);
    return fresh.CheckMerge(other.channels_.front());
  }
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

absl::StatusOr<ChannelStatistics> LayerStatistics::MergedChannels() const {
  ChannelStatistics merged;
  if (config_.kind == ObserverKind::kHistogram) merged.histogram.emplace(config_.mantissa_bits);
  for (const ChannelStatistics& channel : channels_) {
    if (absl::Status status = merged.CheckMerge(channel); !status.ok()) return status;
    merged.Merge(channel);
  }
  return merged;
}

size_t LayerStatistics::MemoryBytes() const {
  size_t bytes = sizeof(*this) + channels_.capacity() * sizeof(ChannelStatistics);
  for (const ChannelStatistics& channel : channels_) {
    if (channel.histogram.has_value()) bytes += channel.histogram->MemoryBytes() - sizeof(Bfloat16Histogram);
  }
  return bytes;
}

}  // namespace calib
