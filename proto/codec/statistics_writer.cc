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

void AddLayer(uint32_t handle, size_t channels, v1::StatisticsBatch* batch) {
  const int layer = batch->layer_size();
  batch->add_layer(handle);
  AddEntry<uint32_t>(static_cast<uint32_t>(channels), 1, layer, batch->mutable_channels());
}

void AddRange(const Range& range, v1::StatisticsBatch* batch) {
  const int row = batch->count_size();
  batch->add_count(range.count);
  batch->add_min(range.empty() ? 0 : range.min);
  batch->add_max(range.empty() ? 0 : range.max);
  AddEntry<uint64_t>(range.nan, 0, row, batch->mutable_nan());
  AddEntry<uint64_t>(range.positive_infinity, 0, row, batch->mutable_positive_infinity());
  AddEntry<uint64_t>(range.negative_infinity, 0, row, batch->mutable_negative_infinity());
}

// Of the row that was added last.
void AddLearned(const LearnedState& learned, v1::StatisticsBatch* batch) {
  v1::LearnedState* const state = batch->add_learned();
  state->set_row(static_cast<uint32_t>(batch->count_size() - 1));
  state->set_scale(learned.scale);
  state->set_zero_point(learned.zero_point);
  state->set_steps(learned.steps);
  state->set_scale_average(learned.scale_moments.first);
  state->set_scale_square_average(learned.scale_moments.second);
  state->set_zero_point_average(learned.zero_point_moments.first);
  state->set_zero_point_square_average(learned.zero_point_moments.second);
}

}  // namespace

void StatisticsWriter::Add(uint32_t handle, const LayerStatistics& statistics, v1::StatisticsBatch* batch) {
  if (statistics.empty()) return;
  AddLayer(handle, statistics.channels().size(), batch);
  for (const ChannelStatistics& channel : statistics.channels()) {
    AddRange(channel.range, batch);
    if (channel.ema.has_value()) {
      v1::EmaRange* const ema = batch->add_ema();
      ema->set_min(channel.ema->min);
      ema->set_max(channel.ema->max);
      ema->set_steps(channel.ema->steps);
    }
    if (channel.reference.has_value()) {
      const ReferenceHistogram& reference = *channel.reference;
      v1::ReferenceHistogram* const histogram = batch->add_reference_histogram();
      histogram->set_low(reference.grid().low);
      histogram->set_high(reference.grid().high);
      histogram->mutable_count()->Add(reference.counts().begin(), reference.counts().end());
      histogram->set_steps(reference.steps());
      histogram->set_min(reference.empty() ? 0 : reference.range().min);
      histogram->set_max(reference.empty() ? 0 : reference.range().max);
    }
    if (channel.learned.has_value()) AddLearned(*channel.learned, batch);
    if (channel.passive.has_value()) {
      v1::PassiveParams* const passive = batch->add_passive();
      passive->set_scale(channel.passive->scale);
      passive->set_zero_point(channel.passive->zero_point);
    }
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

void StatisticsWriter::AddStep(uint32_t handle, const Step& step, bool reference_histogram,
                               v1::StatisticsBatch* batch) {
  AddLayer(handle, step.ranges.size(), batch);
  for (const Range& range : step.ranges) AddRange(range, batch);
  if (!reference_histogram) return;
  v1::ReferenceHistogram* const histogram = batch->add_reference_histogram();
  histogram->set_low(step.grid.low);
  histogram->set_high(step.grid.high);
  histogram->mutable_count()->Reserve(static_cast<int>(step.counts.size()));
  for (const uint64_t count : step.counts) histogram->add_count(static_cast<double>(count));
}

}  // namespace calib
