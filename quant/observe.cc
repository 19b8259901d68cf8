#include "quant/observe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/status/statusor.h"
#include "quant/kernels/kernel.h"
#include "quant/tensor_layout.h"

namespace calib {
namespace {

// Below this, counting straight into the histogram costs less than folding the pages of the working table.
constexpr size_t kFewElements = 4096;
// OUT_OF_RANGE when some channel would count past 2^64 - 1.
absl::Status CheckCounts(const LayerStatistics& statistics, const TensorLayout& layout) {
  if (layout.empty()) return absl::OkStatus();
  for (size_t channel = 0; channel < statistics.channels().size(); ++channel) {
    Range added;
    added.count = layout.ElementsOf(channel);
    if (absl::Status status = statistics.channels()[channel].range.CheckMerge(added); !status.ok()) return status;
  }
  return absl::OkStatus();
}

template <DataType type>
uint32_t LoadKey(const uint8_t* data, size_t index) {
  uint16_t half;
  // The upper half of a little-endian float32 is its key.
  std::memcpy(&half, type == DataType::kFloat32 ? data + 4 * index + 2 : data + 2 * index, 2);
  return type == DataType::kFloat16 ? std::bit_cast<uint32_t>(Float16ToFloat32(half)) >> 16 : half;
}

// Counts at most kFewElements elements without the working table.
template <DataType type>
void AddFewKeys(const uint8_t* data, size_t elements, bool all_finite, Bfloat16Histogram* histogram) {
  const int drop = Bfloat16Histogram::kMaxMantissaBits - histogram->mantissa_bits();
  const auto bin = [drop](uint32_t key) { return static_cast<uint16_t>((key == 0x8000 ? 0 : key) >> drop); };
  std::array<uint16_t, kFewElements> keys;
  size_t finite = 0;
  if (all_finite) {  // the usual case, in a loop that becomes vector instructions
    for (size_t i = 0; i < elements; ++i) keys[i] = bin(LoadKey<type>(data, i));
    finite = elements;
  } else {
    for (size_t i = 0; i < elements; ++i) {
      const uint32_t key = LoadKey<type>(data, i);
      keys[finite] = bin(key);
      finite += (key & 0x7f80) != 0x7f80;
    }
  }
  histogram->AddKeys(absl::MakeConstSpan(keys).first(finite));
}

void AddFewKeys(DataType type, const uint8_t* data, size_t elements, bool all_finite, Bfloat16Histogram* histogram) {
  switch (type) {
    case DataType::kFloat32:
      return AddFewKeys<DataType::kFloat32>(data, elements, all_finite, histogram);
    case DataType::kFloat16:
      return AddFewKeys<DataType::kFloat16>(data, elements, all_finite, histogram);
    case DataType::kBfloat16:
      return AddFewKeys<DataType::kBfloat16>(data, elements, all_finite, histogram);
  }
}

bool AllFinite(const KernelResult& seen) { return seen.nan + seen.positive_infinity + seen.negative_infinity == 0; }

// Moves the counters of one page into `histogram`.
void FoldPage(uint32_t page, KeyCounters* counters, Bfloat16Histogram* histogram) {
  constexpr size_t kSize = 1 << Bfloat16Histogram::kMaxMantissaBits;
  std::array<uint32_t, kSize> sum{};
  for (auto& copy : counters->counts) {
    uint32_t* const from = copy + page * kSize;
    for (size_t i = 0; i < kSize; ++i) sum[i] += from[i];
    std::fill_n(from, kSize, 0);
  }
  const int drop = Bfloat16Histogram::kMaxMantissaBits - histogram->mantissa_bits();
  if (drop > 0) {
    for (size_t i = 0; i < kSize; ++i) {
      const uint32_t count = sum[i];
      sum[i] = 0;
      sum[i >> drop] += count;
    }
  }
  histogram->AddPage(static_cast<int>(page), absl::MakeConstSpan(sum).first(kSize >> drop));
}

// Moves what a kernel call counted into `histogram`, touching only the pages that `seen` allows for.
void Fold(const KernelResult& seen, KeyCounters* counters, Bfloat16Histogram* histogram) {
  const auto page_of = [](float value) { return (Bfloat16Key(value) >> Bfloat16Histogram::kMaxMantissaBits) & 255; };
  uint32_t zeros = 0;
  for (auto& copy : counters->counts) {
    zeros += copy[0] + copy[0x8000];
    copy[0] = copy[0x8000] = 0;
  }
  histogram->AddKey(0, zeros);
  const uint32_t least = seen.least_magnitude >> 23;
  // Signs by the bits: a thread in denormals-are-zero mode compares subnormals as zeros.
  if (std::bit_cast<int32_t>(seen.max) > 0) {
    for (uint32_t page = least; page <= page_of(seen.max); ++page) FoldPage(page, counters, histogram);
  }
  if (std::bit_cast<int32_t>(seen.min) < 0) {
    for (uint32_t page = least; page <= page_of(seen.min); ++page) FoldPage(256 + page, counters, histogram);
  }
  if (!AllFinite(seen)) {
    for (auto& copy : counters->counts) {
      for (const size_t page : {255, 511}) std::fill_n(copy + page * 128, 128, 0);
    }
  }
}

void AddSeen(const KernelResult& seen, size_t elements, ChannelStatistics* channel) {
  Range range;
  range.min = seen.min;
  range.max = seen.max;
  range.nan = seen.nan;
  range.positive_infinity = seen.positive_infinity;
  range.negative_infinity = seen.negative_infinity;
  range.count = elements - range.nan - range.infinities();
  channel->range.Merge(range);
  if (!channel->histogram.has_value()) return;
  const uint32_t dropped = (1u << (23 - channel->histogram->mantissa_bits())) - 1;
  if ((seen.finite_bits & dropped) != 0) channel->histogram->MarkLossy();
}

void CountElements(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters,
                   ChannelStatistics* channel) {
  const Kernel& kernel = ActiveKernel();
  while (elements > 0) {
    const size_t part = std::min(elements, kMaxKernelElements);
    if (!channel->histogram.has_value()) {
      AddSeen(kernel.range(type, data, part), part, channel);
    } else if (part <= kFewElements) {
      const KernelResult seen = kernel.range(type, data, part);
      AddSeen(seen, part, channel);
      AddFewKeys(type, data, part, AllFinite(seen), &*channel->histogram);
    } else {
      const KernelResult seen = kernel.histogram(type, data, part, counters);
      Fold(seen, counters, &*channel->histogram);
      AddSeen(seen, part, channel);
    }
    data += part * ElementSize(type);
    elements -= part;
  }
}

}  // namespace

struct TensorObserver::Scratch {
  KeyCounters counters{};
  ChannelGatherer gatherer;
};

TensorObserver::TensorObserver() : scratch_(std::make_unique<Scratch>()) {}
TensorObserver::~TensorObserver() = default;

absl::Status TensorObserver::Observe(const TensorView& tensor, LayerStatistics* statistics) {
  const absl::StatusOr<TensorLayout> layout = FindLayout(tensor, statistics->config().channel_axis);
  if (!layout.ok()) return layout.status();
  if (absl::Status status = statistics->CheckChannelCount(layout->channels); !status.ok()) return status;
  if (absl::Status status = CheckCounts(*statistics, *layout); !status.ok()) return status;
  if (absl::Status status = statistics->SetChannelCount(layout->channels); !status.ok()) return status;
  scratch_->gatherer.Gather(*layout, ElementSize(tensor.type), tensor.data.data(),
                            [&](uint64_t channel, const uint8_t* data, size_t elements) {
                              CountElements(tensor.type, data, elements, &scratch_->counters,
                                            &statistics->mutable_channels()[channel]);
                            });
  return absl::OkStatus();
}

}  // namespace calib
