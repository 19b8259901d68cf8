#ifndef CALIB_QUANT_TENSOR_VIEW_H_
#define CALIB_QUANT_TENSOR_VIEW_H_

#include <cstdint>

#include "absl/types/span.h"
#include "quant/data_type.h"

namespace calib {

// A row-major, contiguous tensor, or a run of its elements. Borrowed; `data` may have any alignment.
struct TensorView {
  DataType type = DataType::kFloat32;
  absl::Span<const uint64_t> shape;  // of the whole tensor; empty for a scalar
  uint64_t offset = 0;               // of the first element of `data` in the whole tensor
  absl::Span<const uint8_t> data;    // little-endian elements; their number is data.size() / ElementSize(type)
};

}  // namespace calib

#endif  // CALIB_QUANT_TENSOR_VIEW_H_
