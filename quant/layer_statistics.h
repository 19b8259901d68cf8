#ifndef CALIB_QUANT_LAYER_STATISTICS_H_
#define CALIB_QUANT_LAYER_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/bfloat16_histogram.h"
#include "quant/ema_range.h"
#include "quant/heap_optional.h"
#include "quant/learned_state.h"
#include "quant/observer_config.h"
#include "quant/quant_spec.h"
#include "quant/range.h"
#include "quant/reference_histogram.h"
#include "quant/step.h"

namespace calib {

// Statistics of one channel, or of a whole tensor: a range, and what the observer's kind adds. Invariant: histogram,
// when there is one, has total() == range.count.
struct ChannelStatistics {
  // Of this observer, before any data.
  static ChannelStatistics Empty(const ObserverConfig& config);

  Range range;
  std::optional<Bfloat16Histogram> histogram;   // kHistogram, kLearned
  std::optional<EmaRange> ema;                  // kEma
  std::optional<ReferenceHistogram> reference;  // kReferenceHistogram
  std::optional<QParams> passive;               // kPassive, once set
  HeapOptional<LearnedState> learned;           // kLearned, once initialized; no part of merging

  // The extremes that the observer answers with: averaged (kEma), as the framework keeps them (kReferenceHistogram), or
  // those of the data; and the data's counts.
  Range ObservedRange() const;

  // OUT_OF_RANGE on overflow, INVALID_ARGUMENT when one has a histogram and the other none, on a coarser one, and when
  // either is no statistic that merges.
  absl::Status CheckMerge(const ChannelStatistics& other) const;
  // REQUIRES: CheckMerge(other).ok().
  void Merge(const ChannelStatistics& other);

  friend bool operator==(const ChannelStatistics&, const ChannelStatistics&) = default;
};

// What an observer collected of one layer. Merging is associative, commutative and exact; a LayerStatistics without
// channels is its identity. Observers that depend on order are not merged: steps are folded into them, one by one. Not
// thread-safe.
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
  // kinds differ, `other` is coarser, or it has learned anything: of a learned observer its statistics merge, and what
  // this has learned stays.
  absl::Status CheckMerge(const LayerStatistics& other) const;
  // REQUIRES: CheckMerge(other).ok().
  void Merge(const LayerStatistics& other);

  // For observers that depend on order. The grid on which the reference histogram's next step, of this range, is to be
  // counted; of an ema observer one without bins. RESOURCE_EXHAUSTED as ReferenceHistogram::NextGrid.
  absl::StatusOr<ReferenceGrid> NextGrid(const Range& step) const;
  // FAILED_PRECONDITION when the channel count differs; OUT_OF_RANGE on overflow; ABORTED when the step was counted on
  // another grid than NextGrid says; INVALID_ARGUMENT when its counts contradict its range, when a reference histogram
  // is given other than one range, and of an observer that does not depend on order; RESOURCE_EXHAUSTED as NextGrid.
  absl::Status CheckStep(const Step& step) const;
  // Folds a step in. REQUIRES: CheckStep(step).ok().
  void FoldStep(const Step& step);

  // Sets the parameters of a passive observer, one a channel; they replace earlier ones.
  // REQUIRES: config().kind is kPassive, params is not empty.
  void SetPassive(absl::Span<const QParams> params);

  // All channels as one. OUT_OF_RANGE on overflow. REQUIRES: the observer's statistics merge.
  absl::StatusOr<ChannelStatistics> MergedChannels() const;

  // Bytes of memory that this takes, itself included.
  size_t MemoryBytes() const;

  friend bool operator==(const LayerStatistics&, const LayerStatistics&) = default;

 private:
  ObserverConfig config_;
  std::vector<ChannelStatistics> channels_;
};

}  // namespace calib

#endif  // CALIB_QUANT_LAYER_STATISTICS_H_
