#ifndef CALIB_QUANT_LAYER_STATISTICS_H_
#define CALIB_QUANT_LAYER_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/bfloat16_histogram.h"
#include "quant/observer_config.h"
#include "quant/range.h"

namespace calib {

// Statistics of one channel, or of a whole tensor. Invariant: histogram, when there is one, has total() == range.count.
struct ChannelStatistics {
  Range range;
  std::optional<Bfloat16Histogram> histogram;

  // OUT_OF_RANGE on overflow, INVALID_ARGUMENT when one has a histogram and the other none, or on a coarser one.
  absl::Status CheckMerge(const ChannelStatistics& other) const;
  // REQUIRES: CheckMerge(other).ok().
  void Merge(const ChannelStatistics& other);

  friend bool operator==(const ChannelStatistics&, const ChannelStatistics&) = default;
};

// What an observer collected of one layer. Merging is associative, commutative and exact; a LayerStatistics without
// channels is its identity. Not thread-safe.
class LayerStatistics {
 public:
  explicit LayerStatistics(const ObserverConfig& config) : config_(config) {}

  const ObserverConfig& config() const { return config_; }
  // Empty before the first data; then one per channel, or one in all when observed per tensor.
  const std::vector<ChannelStatistics>& channels() const { return channels_; }
  std::vector<ChannelStatistics>& mutable_channels() { return channels_; }
  bool empty() const { return channels_.empty(); }

  // FAILED_PRECONDITION when there are channels, and not this many.
  absl::Status CheckChannelCount(size_t channels) const;
  // Makes `channels` empty channels when there are none yet; errors as CheckChannelCount. The caller bounds the number.
  absl::Status SetChannelCount(size_t channels);

  // FAILED_PRECONDITION when the channel counts differ; OUT_OF_RANGE on overflow; INVALID_ARGUMENT when the observer
  // kinds differ or `other` is coarser.
  absl::Status CheckMerge(const LayerStatistics& other) const;
  // REQUIRES: CheckMerge(other).ok().
  void Merge(const LayerStatistics& other);

  // All channels as one. OUT_OF_RANGE on overflow.
  absl::StatusOr<ChannelStatistics> MergedChannels() const;

  // Bytes of memory that this takes, itself included.
  size_t MemoryBytes() const;

 private:
  ObserverConfig config_;
  std::vector<ChannelStatistics> channels_;
};

}  // namespace calib

#endif  // CALIB_QUANT_LAYER_STATISTICS_H_
