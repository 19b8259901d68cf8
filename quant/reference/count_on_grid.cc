#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/data_type.h"
#include "quant/reference/step_plan.h"

namespace calib {
namespace {

constexpr double kFloatMax = std::numeric_limits<float>::max();

// numpy.histogram (1.24, numpy/lib/histograms.py) of a float32 array on a range of doubles: the edges are float32, the
// first guess is float32 arithmetic, and the two edges beside it decide. `Real` is double where float32 would overflow.
template <typename Real>
class NumpyBins {
 public:
  explicit NumpyBins(const ReferenceGrid& grid)
      : low_(grid.low),
        high_(grid.high),
        step_((grid.high - grid.low) / grid.bins),
        first_(static_cast<Real>(grid.low)),
        last_(static_cast<Real>(grid.high)),
        bins_(grid.bins) {
    const double norm = grid.bins / (grid.high - grid.low);
    // NumPy keeps a factor beyond float32 as a double.
    wide_norm_ = norm > kFloatMax;
    norm_ = wide_norm_ ? norm : static_cast<double>(static_cast<Real>(norm));
  }

  int64_t operator()(float value) const {
    const Real x = value;
    if (!(x >= first_ && x <= last_)) return -1;
    const Real distance = x - first_;
    const double guess = wide_norm_ ? distance * norm_ : static_cast<double>(distance * static_cast<Real>(norm_));
    // Of a width that rounds to nothing NumPy makes a NaN and fails.
    int64_t bin = guess < bins_ ? static_cast<int64_t>(guess) : (guess >= bins_ ? bins_ - 1 : 0);
    if (x < Edge(bin)) --bin;
    if (bin != bins_ - 1 && x >= Edge(bin + 1)) ++bin;
    return std::max<int64_t>(bin, 0);
  }

 private:
  Real Edge(int64_t i) const { return static_cast<Real>(i == bins_ ? high_ : static_cast<double>(i) * step_ + low_); }

  double low_, high_, step_, norm_;
  Real first_, last_;
  int64_t bins_;
  bool wide_norm_;
};

// torch.histc of a float32 tensor (aten/src/ATen/native/cpu/HistogramKernel.cpp): no edges, values outside are dropped.
// PyTorch 1.13 divides by the width, then multiplies with the number of bins; since 2.1 at the latest it is the other
// way round. `Real` is double where float32 would overflow.
template <typename Real, bool kDivideFirst>
class HistcBins {
 public:
  explicit HistcBins(const ReferenceGrid& grid)
      : first_(static_cast<Real>(grid.low)),
        last_(static_cast<Real>(grid.high)),
        width_(last_ - first_),
        bins_(static_cast<int64_t>(grid.bins)) {}

  int64_t operator()(float value) const {
    const Real x = value;
    if (!(x >= first_ && x <= last_)) return -1;
    if (width_ == 0) return 0;
    const Real bins = static_cast<Real>(bins_), distance = x - first_;
    const Real bin = kDivideFirst ? distance / width_ * bins : distance * bins / width_;
    return std::min(static_cast<int64_t>(bin), bins_ - 1);
  }

 private:
  Real first_, last_, width_;
  int64_t bins_;
};

bool FitsFloat(const ReferenceGrid& grid) {
  return grid.low >= -kFloatMax && grid.high <= kFloatMax && grid.high - grid.low <= kFloatMax;
}

bool HistcFitsFloat(const ReferenceGrid& grid) {
  return FitsFloat(grid) && (grid.high - grid.low) * grid.bins <= kFloatMax;
}

// Calls `use` with the function from values to bins.
template <typename Use>
void WithBins(ReferenceRule rule, const ReferenceGrid& grid, const Use& use) {
  if (rule == ReferenceRule::kMegengine || rule == ReferenceRule::kMxnet) {
    FitsFloat(grid) ? use(NumpyBins<float>(grid)) : use(NumpyBins<double>(grid));
  } else if (rule == ReferenceRule::kPytorch) {
    HistcFitsFloat(grid) ? use(HistcBins<float, true>(grid)) : use(HistcBins<double, true>(grid));
  } else {
    HistcFitsFloat(grid) ? use(HistcBins<float, false>(grid)) : use(HistcBins<double, false>(grid));
  }
}

// Calls `use` with each element as float32.
template <typename Use>
void ForEachValue(const TensorView& tensor, const Use& use) {
  const uint8_t* const end = tensor.data.data() + tensor.data.size();
  if (tensor.type == DataType::kFloat32) {
    for (const uint8_t* at = tensor.data.data(); at != end; at += sizeof(float)) {
      float value;
      std::memcpy(&value, at, sizeof(value));
      use(value);
    }
    return;
  }
  for (const uint8_t* at = tensor.data.data(); at != end; at += sizeof(uint16_t)) {
    uint16_t bits;
    std::memcpy(&bits, at, sizeof(bits));
    use(tensor.type == DataType::kFloat16 ? Float16ToFloat32(bits) : Bfloat16ToFloat32(bits));
  }
}

}  // namespace

namespace reference {

ReferenceGrid NumpyGrid(double low, double high, uint32_t bins) {
  if (low == high) return {low - 0.5, high + 0.5, bins};
  return {low, high, bins};
}

ReferenceGrid HistcGrid(double low, double high, const Range& step, uint32_t bins) {
  if (low == high) {
    low = step.min;
    high = step.max;
  }
  if (low == high) return {low - 1, high + 1, bins};
  return {low, high, bins};
}

int64_t BinOf(ReferenceRule rule, const ReferenceGrid& grid, float value) {
  int64_t bin = -1;
  WithBins(rule, grid, [&](const auto& bins) { bin = bins(value); });
  return bin;
}

}  // namespace reference

absl::Status CountOnGrid(ReferenceRule rule, const ReferenceGrid& grid, const TensorView& tensor,
                         std::vector<uint64_t>* counts) {
  const size_t size = ElementSize(tensor.type);
  if (tensor.data.size() % size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.data.size(), " bytes are not whole elements of ", size, " bytes"));
  }
  if (!(grid.low <= grid.high) || !std::isfinite(grid.high - grid.low)) {
    return absl::InvalidArgumentError(absl::StrCat("no bins can lie from ", grid.low, " to ", grid.high));
  }
  counts->assign(grid.bins, 0);
  if (grid.bins == 0) return absl::OkStatus();
  WithBins(rule, grid, [&](const auto& bins) {
    ForEachValue(tensor, [&](float value) {
      if (!std::isfinite(value)) return;
      const int64_t bin = bins(value);
      if (bin >= 0) ++(*counts)[static_cast<size_t>(bin)];
    });
  });
  return absl::OkStatus();
}

}  // namespace calib
