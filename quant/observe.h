#ifndef CALIB_QUANT_OBSERVE_H_
#define CALIB_QUANT_OBSERVE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "quant/layer_statistics.h"
#include "quant/tensor_view.h"

namespace calib {

// Counts elements into statistics. Holds the working memory (about 768 KiB), so that observing allocates nothing beyond
// new histogram pages. Not thread-safe; make one a thread.
class TensorObserver {
 public:
  TensorObserver();
  ~TensorObserver();
  TensorObserver(const TensorObserver&) = delete;
  TensorObserver& operator=(const TensorObserver&) = delete;

  // Adds the elements of `tensor` to `statistics`, in one pass (a channel's run of at most 4,096 elements in two, for
  // its range and for its keys), by ActiveKernel(). The result depends only on the
  // multiset of (channel, value): not on order, splitting or kernel. An empty tensor adds nothing, but sets the channel
  // count.
  //
  // INVALID_ARGUMENT: data is not whole elements, the shape's product overflows or is less than offset + elements, the
  // observer's channel axis is outside the shape. FAILED_PRECONDITION: the channel count changed. OUT_OF_RANGE: a count
  // would overflow. Nothing is added then.
  absl::Status Observe(const TensorView& tensor, LayerStatistics* statistics);

 private:
  struct Scratch;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace calib

#endif  // CALIB_QUANT_OBSERVE_H_
