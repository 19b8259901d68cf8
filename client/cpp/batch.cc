#include "client/cpp/batch.h"

#include <algorithm>

namespace calib::client {
namespace {

// Upper bounds of encoded sizes: of a row without values, of the fixed part of a row with values, of a page's key,
// encoding and number of pairs, of a layer's handle and channel count.
constexpr size_t kEmptyRowBytes = 16;
constexpr size_t kRowBytes = 96;
constexpr size_t kPageBytes = 4;
constexpr size_t kLayerBytes = 16;

// The packer takes the shorter of dense and sparse page by page, so at most the shorter of the two for all pages.
size_t BoundOfHistogram(const Bfloat16Histogram& histogram) {
  size_t pages = 0;
  for (int page = 0; page < Bfloat16Histogram::kPages; ++page) pages += histogram.page(page).empty() ? 0 : 1;
  const uint64_t total = histogram.total();
  const size_t width = total >> 32 != 0 ? 8 : total >> 16 != 0 ? 4 : total >> 8 != 0 ? 2 : 1;
  const size_t counters = pages * static_cast<size_t>(histogram.counters_per_page());
  const size_t pairs = static_cast<size_t>(std::min<uint64_t>(total, counters));
  return pages * kPageBytes + std::min(counters * width, pairs * (1 + width));
}

size_t BoundOfValues(const ChannelStatistics& channel) {
  if (channel.range.values() == 0) return 0;
  return kRowBytes + (channel.histogram.has_value() ? BoundOfHistogram(*channel.histogram) : 0);
}

size_t BoundOfEmpty(const LayerStatistics& statistics) {
  return kLayerBytes + statistics.channels().size() * kEmptyRowBytes;
}

// Moves the first channels with values, as many as `room` has place for and at least one, into statistics of their own.
LayerStatistics TakeChannels(size_t room, LayerStatistics* from) {
  LayerStatistics part(from->config());
  part.SetChannelCount(from->channels().size()).IgnoreError();  // cannot fail: it has no channels yet
  const ChannelStatistics empty = part.channels().front();
  size_t bytes = 0;
  for (size_t i = 0; i < from->channels().size(); ++i) {
    ChannelStatistics& channel = from->mutable_channels()[i];
    const size_t bound = BoundOfValues(channel);
    if (bound == 0) continue;
    if (bytes > 0 && bytes + bound > room) break;
    bytes += bound;
    part.mutable_channels()[i].Merge(channel);
    channel = empty;
  }
  return part;
}

}  // namespace

std::vector<uint32_t> BatchWriter::Take(absl::FunctionRef<uint32_t(uint32_t layer)> handle_of, LayerMap* layers,
                                        v1::StatisticsBatch* batch) {
  std::vector<uint32_t> taken;
  size_t bytes = 0;
  while (!layers->empty()) {
    const uint32_t layer = layers->begin()->first;
    LayerStatistics& statistics = layers->begin()->second;
    size_t bound = BoundOfEmpty(statistics);
    for (const ChannelStatistics& channel : statistics.channels()) bound += BoundOfValues(channel);
    if (bytes > 0 && bytes + bound > max_bytes_) break;
    taken.push_back(layer);
    if (bound > max_bytes_) {
      const size_t empty = BoundOfEmpty(statistics);
      const size_t room = empty < max_bytes_ ? max_bytes_ - empty : 0;
      writer_.Add(handle_of(layer), TakeChannels(room, &statistics), batch);
      if (CountValues(statistics) == 0) layers->erase(layer);
      break;
    }
    writer_.Add(handle_of(layer), statistics, batch);
    layers->erase(layer);
    bytes += bound;
  }
  return taken;
}

uint64_t CountValues(const LayerStatistics& statistics) {
  uint64_t values = 0;
  for (const ChannelStatistics& channel : statistics.channels()) values += channel.range.values();
  return values;
}

}  // namespace calib::client
