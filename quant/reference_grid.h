#ifndef CALIB_QUANT_REFERENCE_GRID_H_
#define CALIB_QUANT_REFERENCE_GRID_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quant/tensor_view.h"

namespace calib {

// Whose histogram is reproduced.
enum class ReferenceRule : uint8_t {
  kMegengine,       // MegEngine 1.13 HistogramObserver
  kPytorch,         // PyTorch 1.13 HistogramObserver as it is, its range cut to integers included
  kPytorchCurrent,  // the corrected one: PyTorch since PR 129387 (2.5), torchao
  kMxnet,           // Apache MXNet 1.9 _LayerHistogramCollector
};

// "megengine", "pytorch", "pytorch_current", "mxnet".
absl::string_view ReferenceRuleName(ReferenceRule rule);
// INVALID_ARGUMENT names what there is.
absl::StatusOr<ReferenceRule> ParseReferenceRule(absl::string_view name);

// A rule and its constants; 0 stands for the rule's own default.
struct ReferenceOptions {
  ReferenceRule rule = ReferenceRule::kMegengine;
  uint32_t bins = 0;      // 2048; mxnet: 8001, which must be odd
  uint32_t max_bins = 0;  // what a histogram may grow to while it is combined: 2^24 cells (mxnet: 2^20 bins)

  friend bool operator==(const ReferenceOptions&, const ReferenceOptions&) = default;
};

// INVALID_ARGUMENT when a number is out of its range: bins 2 to 65,536, max_bins bins to 2^26.
absl::Status CheckReferenceOptions(const ReferenceOptions& options);

// The equal-width bins over which the counts of one step are taken.
struct ReferenceGrid {
  double low = 0;   // first edge
  double high = 0;  // last edge; the last bin is closed
  uint32_t bins = 0;

  friend bool operator==(const ReferenceGrid&, const ReferenceGrid&) = default;
};

// Counts the finite values of a tensor on a grid as the rule's framework does: numpy.histogram's edges and fix-ups
// (megengine, mxnet) or torch.histc's arithmetic on float32 (pytorch, pytorch_current), where values outside are
// dropped. `counts` gets grid.bins numbers. INVALID_ARGUMENT: data is not whole elements, or the grid's ends are not
// finite or cross.
absl::Status CountOnGrid(ReferenceRule rule, const ReferenceGrid& grid, const TensorView& tensor,
                         std::vector<uint64_t>* counts);

}  // namespace calib

#endif  // CALIB_QUANT_REFERENCE_GRID_H_
