#ifndef CALIB_QUANT_TENSOR_LAYOUT_H_
#define CALIB_QUANT_TENSOR_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/observe.h"

namespace calib {

// How a run of a tensor's elements falls into channels: element i of the whole tensor, row-major, belongs to channel
// i / inner % channels.
struct TensorLayout {
  uint64_t begin = 0;  // first element of the run, counted in the whole tensor
  uint64_t end = 0;    // one past its last
  uint64_t channels = 1;
  uint64_t inner = 1;  // neighbouring elements of one channel; at least 1

  bool empty() const { return begin == end; }
  // Elements of the run in `channel`. REQUIRES: !empty().
  uint64_t ElementsOf(uint64_t channel) const;
};

// The layout of `tensor` with this channel axis, which may be negative or, for one channel in all, unset.
// INVALID_ARGUMENT as TensorObserver::Observe says.
absl::StatusOr<TensorLayout> FindLayout(const TensorView& tensor, std::optional<int> channel_axis);

// Brings the elements of each channel together. Keeps its working memory (about 256 KiB). Not thread-safe.
class ChannelGatherer {
 public:
  // Receives elements of one channel.
  using Sink = absl::FunctionRef<void(uint64_t channel, const uint8_t* data, size_t elements)>;

  ChannelGatherer();

  // Passes every element of the run once, in runs as long as can be had: as they lie when they lie together, else
  // copied. `data` are the elements of `layout`, each of `element_size` bytes.
  void Gather(const TensorLayout& layout, size_t element_size, const uint8_t* data, Sink sink);

 private:
  void GatherGroup(const TensorLayout& layout, size_t element_size, const uint8_t* data, uint64_t first, uint64_t last,
                   Sink sink);

  std::vector<uint8_t> staged_;
};

}  // namespace calib

#endif  // CALIB_QUANT_TENSOR_LAYOUT_H_
