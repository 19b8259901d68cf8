#include "proto/codec/statistics_codec.h"

namespace calib {
namespace {

// Appends the entry of row `row` to a column that is left out as long as all its entries are `usual`.
template <typename Entry>
void AddEntry(Entry entry, Entry usual, int row, google::protobuf::RepeatedField<Entry>* column) {
  if (column->empty()) {
    if (entry == usual) return;
    column->Resize(row, usual);
  }
  column->Add(entry);
}

}  // namespace

void StatisticsWriter::Add(uint32_t handle, const LayerStatistics& statistics, v1::StatisticsBatch* batch) {
  if (statistics.empty()) return;
  const int layer = batch->layer_size();
  batch->add_layer(handle);
  AddEntry<uint32_t>(static_cast<uint32_t>(statistics.channels().size()), 1, layer, batch->mutable_channels());
  for (const ChannelStatistics& channel : statistics.channels()) {
    const Range& range = channel.range;
    const int row = batch->count_size();
    batch->add_count(range.count);
    batch->add_min(range.empty() ? 0 : range.min);
    batch->add_max(range.empty() ? 0 : range.max);
    AddEntry<uint64_t>(range.nan, 0, row, batch->mutable_nan());
    AddEntry<uint64_t>(range.positive_infinity, 0, row, batch->mutable_positive_infinity());
    AddEntry<uint64_t>(range.negative_infinity, 0, row, batch->mutable_negative_infinity());
    if (!channel.histogram.has_value()) continue;
    Pack(*channel.histogram, &packed_);
    v1::Bfloat16Histogram* const histogram = batch->add_histogram();
    histogram->set_mantissa_bits(packed_.mantissa_bits);
    histogram->set_lossless(packed_.lossless);
    histogram->mutable_page()->Assign(packed_.page.begin(), packed_.page.end());
    histogram->set_encoding(packed_.encoding);
    histogram->set_sparse_pairs(packed_.sparse_pairs);
    histogram->set_counts(packed_.counts);
  }
}

}  // namespace calib
