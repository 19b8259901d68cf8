#include "quant/tensor_layout.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace calib {
namespace {

// Runs of one channel from this length on are passed as they are.
constexpr uint64_t kLongRun = 4096;
// Elements of one channel that are staged before they are passed. At least kLongRun, so that any shorter run fits.
constexpr size_t kStagedElements = 4096;
// Channels are staged in groups whose neighbouring elements fill about a cache line, so that each line is read once.
constexpr size_t kGroupBytes = 64;
constexpr size_t kMostChannels = kGroupBytes / 2;
// Keeps the ends of a group's staged runs out of each other's cache sets.
constexpr size_t kPadding = 64;

absl::Status Malformed(const TensorView& tensor, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(DataTypeName(tensor.type), " tensor of shape [", absl::StrJoin(tensor.shape, ", "), "]: ", what));
}

// Product of `shape`; false when it passes 2^64 - 1.
bool Product(absl::Span<const uint64_t> shape, uint64_t* product) {
  *product = std::find(shape.begin(), shape.end(), 0) != shape.end() ? 0 : 1;
  for (const uint64_t size : shape) {
    if (*product != 0 && size > std::numeric_limits<uint64_t>::max() / *product) return false;
    *product *= size;
  }
  return true;
}

// Copies `rows` rows' runs of `bytes` bytes, one of each of `channels` channels side by side, to each channel's place,
// `stride` apart, from `filled` on. A few rows at a time, so that their cache lines stay at hand until every channel
// had its part.
template <typename Copy>
void CopyRows(const uint8_t* from, size_t row_bytes, uint64_t rows, uint64_t channels, size_t bytes, uint8_t* to,
              size_t stride, size_t* filled, Copy copy) {
  constexpr uint64_t kBlock = 8;
  for (uint64_t begin = 0; begin < rows; begin += kBlock) {
    const uint64_t end = std::min(begin + kBlock, rows);
    for (uint64_t c = 0; c < channels; ++c) {
      const uint8_t* source = from + begin * row_bytes + c * bytes;
      uint8_t* target = to + c * stride + filled[c];
      for (uint64_t r = begin; r < end; ++r, source += row_bytes, target += bytes) copy(target, source);
      filled[c] += (end - begin) * bytes;
    }
  }
}

}  // namespace

uint64_t TensorLayout::ElementsOf(uint64_t channel) const {
  const uint64_t row = channels * inner;
  const uint64_t start = channel * inner;
  const auto before = [&](uint64_t element) {
    const uint64_t in_row = element % row;
    return element / row * inner + (in_row > start ? std::min(in_row - start, inner) : 0);
  };
  return before(end) - before(begin);
}

absl::StatusOr<TensorLayout> FindLayout(const TensorView& tensor, std::optional<int> channel_axis) {
  const size_t element_size = ElementSize(tensor.type);
  if (tensor.data.size() % element_size != 0) {
    return Malformed(tensor,
                     absl::StrCat(tensor.data.size(), " bytes are not whole elements of ", element_size, " bytes"));
  }
  const uint64_t elements = tensor.data.size() / element_size;
  uint64_t all;
  if (!Product(tensor.shape, &all)) return Malformed(tensor, "the number of elements passes 2^64 - 1");
  if (tensor.offset > all || elements > all - tensor.offset) {
    return Malformed(tensor, absl::StrCat(elements, " elements from element ", tensor.offset, " on reach beyond its ",
                                          all, " elements"));
  }
  TensorLayout layout;
  layout.begin = tensor.offset;
  layout.end = tensor.offset + elements;
  if (!channel_axis.has_value()) {
    layout.inner = std::max<uint64_t>(all, 1);
    return layout;
  }
  const int64_t axes = static_cast<int64_t>(tensor.shape.size());
  const int64_t axis = *channel_axis < 0 ? *channel_axis + axes : *channel_axis;
  if (axis < 0 || axis >= axes) {
    return Malformed(tensor, absl::StrCat("the layer is observed per channel along axis ", *channel_axis,
                                          ", which this shape does not have"));
  }
  layout.channels = tensor.shape[axis];
  // With elements no size is 0, and no part of the product passes the whole.
  if (elements > 0) Product(tensor.shape.subspan(axis + 1), &layout.inner);
  return layout;
}

ChannelGatherer::ChannelGatherer() : staged_(kStagedElements * kGroupBytes + kMostChannels * kPadding) {}

void ChannelGatherer::Gather(const TensorLayout& layout, size_t element_size, const uint8_t* data, Sink sink) {
  if (layout.empty()) return;
  if (layout.channels == 1) return sink(0, data, layout.end - layout.begin);
  if (layout.inner >= kLongRun) {
    for (uint64_t i = layout.begin; i < layout.end;) {
      const uint64_t elements = std::min(layout.inner - i % layout.inner, layout.end - i);
      sink(i / layout.inner % layout.channels, data, elements);
      data += elements * element_size;
      i += elements;
    }
    return;
  }
  const uint64_t group = std::max<uint64_t>(kGroupBytes / (layout.inner * element_size), 1);
  for (uint64_t first = 0; first < layout.channels; first += group) {
    GatherGroup(layout, element_size, data, first, std::min(first + group, layout.channels), sink);
  }
}

void ChannelGatherer::GatherGroup(const TensorLayout& layout, size_t element_size, const uint8_t* data, uint64_t first,
                                  uint64_t last, Sink sink) {
  const uint64_t inner = layout.inner;
  const uint64_t row = layout.channels * inner;
  const uint64_t channels = last - first;
  const size_t bytes = inner * element_size;
  const size_t stride = kStagedElements * element_size + kPadding;
  std::array<size_t, kMostChannels> filled{};  // bytes staged of each channel
  const auto flush = [&] {
    for (uint64_t c = 0; c < channels; ++c) {
      if (filled[c] > 0) sink(first + c, staged_.data() + c * stride, filled[c] / element_size);
      filled[c] = 0;
    }
  };

  const uint64_t capacity = kStagedElements / inner;
  const uint64_t rows_end = (layout.end - 1) / row + 1;
  uint64_t rows_staged = 0;
  for (uint64_t r = layout.begin / row; r < rows_end;) {
    if (rows_staged == capacity) {
      flush();
      rows_staged = 0;
    }
    const uint64_t begin = r * row + first * inner;
    if (begin >= layout.begin && begin < layout.end && layout.end - begin >= channels * inner) {
      // From here on only the last row may be cut.
      const uint64_t rows = std::min(capacity - rows_staged, std::max<uint64_t>(rows_end - 1 - r, 1));
      const uint8_t* const from = data + (begin - layout.begin) * element_size;
      const auto copy_rows = [&](auto copy) {
        CopyRows(from, row * element_size, rows, channels, bytes, staged_.data(), stride, filled.data(), copy);
      };
      // Single elements are moves, not calls.
      if (bytes == 4) {
        copy_rows([](uint8_t* to, const uint8_t* source) { std::memcpy(to, source, 4); });
      } else if (bytes == 2) {
        copy_rows([](uint8_t* to, const uint8_t* source) { std::memcpy(to, source, 2); });
      } else {
        copy_rows([bytes](uint8_t* to, const uint8_t* source) { std::memcpy(to, source, bytes); });
      }
      r += rows;
      rows_staged += rows;
      continue;
    }
    ++r;
    ++rows_staged;
    for (uint64_t c = 0; c < channels; ++c) {
      const uint64_t run_begin = std::max(begin + c * inner, layout.begin);
      // The last row of the whole tensor ends within 64 bits, so this does too.
      const uint64_t run_end = std::min(begin + (c + 1) * inner, layout.end);
      if (run_begin >= run_end) continue;
      const size_t run_bytes = (run_end - run_begin) * element_size;
      std::memcpy(staged_.data() + c * stride + filled[c], data + (run_begin - layout.begin) * element_size, run_bytes);
      filled[c] += run_bytes;
    }
  }
  flush();
}

}  // namespace calib
