// Whatever arrives: parsing, decoding and merging never crash, and what passes merges to what its ranges say.
#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "tests/codec/random_statistics.h"

namespace calib {
namespace {

using test::IsHistogramHandle;
using test::KindOfHandle;
using test::Rng;

constexpr int kMutations = 10000;  // of each kind

// Changes, drops, repeats or inserts a few bytes.
void MutateBytes(Rng& rng, std::string* bytes) {
  for (int changes = 1 + static_cast<int>(rng() % 4); changes > 0 && !bytes->empty(); --changes) {
    const size_t at = rng() % bytes->size();
    const size_t length = 1 + rng() % 8;
    switch (rng() % 5) {
      case 0:
        (*bytes)[at] = static_cast<char>(rng());
        break;
      case 1:
        (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << rng() % 8));
        break;
      case 2:
        bytes->erase(at, length);
        break;
      case 3:
        bytes->insert(at, bytes->substr(rng() % bytes->size(), length));
        break;
      case 4:
        (*bytes)[at] = rng() % 2 == 0 ? '\xff' : '\0';
        break;
    }
  }
}

uint64_t AnyNumber(Rng& rng) {
  constexpr uint64_t kEdges[] = {
      0, 1, 2, 255, 256, 511, 512, 0x7fffffff, 0xffffffff, uint64_t{1} << 63, std::numeric_limits<uint64_t>::max()};
  return rng() % 2 == 0 ? kEdges[rng() % std::size(kEdges)] : rng() % 200;
}

template <typename Column>
void MutateColumn(Rng& rng, Column* column) {
  if (rng() % 8 == 0) {
    column->Resize(static_cast<int>(rng() % 8), {});
  } else if (!column->empty()) {
    column->Set(static_cast<int>(rng() % column->size()), static_cast<typename Column::value_type>(AnyNumber(rng)));
  }
}

// Changes an entry of some column, so that the message stays parsable.
void MutateFields(Rng& rng, v1::StatisticsBatch* batch) {
  const uint64_t target = rng() % 13;
  if (target == 0) MutateColumn(rng, batch->mutable_layer());
  if (target == 1) MutateColumn(rng, batch->mutable_channels());
  if (target == 2) MutateColumn(rng, batch->mutable_count());
  if (target == 3) MutateColumn(rng, batch->mutable_min());
  if (target == 4) MutateColumn(rng, batch->mutable_max());
  if (target == 5) MutateColumn(rng, batch->mutable_nan());
  if (target == 6) MutateColumn(rng, batch->mutable_positive_infinity());
  if (target == 12 && rng() % 4 == 0) batch->add_learned()->set_scale(1);
  if (target < 7 || batch->histogram_size() == 0) return;
  v1::Bfloat16Histogram* const histogram = batch->mutable_histogram(static_cast<int>(rng() % batch->histogram_size()));
  if (target == 7) histogram->set_mantissa_bits(static_cast<uint32_t>(AnyNumber(rng)));
  if (target == 8) MutateColumn(rng, histogram->mutable_page());
  if (target == 9) MutateBytes(rng, histogram->mutable_encoding());
  if (target == 10) MutateBytes(rng, histogram->mutable_sparse_pairs());
  if (target == 11) MutateBytes(rng, histogram->mutable_counts());
}

LayerStatistics Empty(const LayerView& layer) {
  ObserverConfig config;
  config.kind = KindOfHandle(layer.handle);
  if (layer.rows.size() != 1) config.channel_axis = 0;
  config.mantissa_bits = Bfloat16Histogram::kMinMantissaBits;  // takes histograms of every resolution
  return LayerStatistics(config);
}

// Merges what was decoded and compares it with the ranges; then merges it once more.
void CheckMerges(const StatisticsReader& reader, std::map<uint32_t, LayerStatistics>* merged) {
  for (const LayerView& layer : reader.layers()) {
    LayerStatistics statistics = Empty(layer);
    const absl::Status status = CheckMergeRows(layer, statistics);
    ASSERT_TRUE(status.ok()) << status;
    MergeRows(layer, &statistics);
    ASSERT_EQ(statistics.channels().size(), layer.rows.size());
    for (size_t i = 0; i < layer.rows.size(); ++i) {
      const ChannelStatistics& channel = statistics.channels()[i];
      ASSERT_EQ(channel.range, layer.rows[i].range);
      ASSERT_EQ(channel.histogram.has_value(), IsHistogramHandle(layer.handle));
      const uint64_t counted = channel.histogram.has_value() ? channel.histogram->total() : channel.range.count;
      ASSERT_EQ(counted, channel.range.count);
    }
    merged->emplace(layer.handle, statistics);
    if (!CheckMergeRows(layer, statistics).ok()) continue;  // twice the counts overflow
    MergeRows(layer, &statistics);
    for (size_t i = 0; i < layer.rows.size(); ++i) {
      ASSERT_EQ(statistics.channels()[i].range.values(), 2 * layer.rows[i].range.values());
    }
  }
}

// Returns whether the batch passed.
bool DecodeAndCheck(const v1::StatisticsBatch& batch, StatisticsReader* reader) {
  const absl::Status status = reader->Decode(batch, KindOfHandle);
  if (!status.ok()) {
    const v1::ErrorReason reason = GetReason(status);
    EXPECT_TRUE(reason == v1::ERROR_REASON_STATISTICS_INCONSISTENT || reason == v1::ERROR_REASON_HISTOGRAM_INVALID ||
                reason == v1::ERROR_REASON_COUNT_OVERFLOW)
        << status;
    EXPECT_TRUE(reader->layers().empty());
    return false;
  }
  std::map<uint32_t, LayerStatistics> merged;
  CheckMerges(*reader, &merged);
  // What was merged can be written and read again.
  const v1::StatisticsBatch written = test::Encode(merged);
  StatisticsReader again;
  EXPECT_TRUE(again.Decode(written, KindOfHandle).ok());
  EXPECT_EQ(again.layers().size(), merged.size());
  return true;
}

std::vector<v1::StatisticsBatch> ValidBatches(Rng& rng) {
  std::vector<v1::StatisticsBatch> batches;
  for (int i = 0; i < 64; ++i) batches.push_back(test::Encode(test::RandomLayers(rng, 1 + i % 5, 4 + i % 4)));
  return batches;
}

TEST(StatisticsMutationTest, MutatedBytesAreRefusedOrConsistent) {
  Rng rng(101);
  const std::vector<v1::StatisticsBatch> batches = ValidBatches(rng);
  StatisticsReader reader;
  int parsed = 0;
  int passed = 0;
  for (int i = 0; i < kMutations && !HasFatalFailure(); ++i) {
    std::string bytes = batches[i % batches.size()].SerializeAsString();
    MutateBytes(rng, &bytes);
    v1::StatisticsBatch batch;
    if (!batch.ParseFromString(bytes)) continue;
    ++parsed;
    passed += DecodeAndCheck(batch, &reader);
  }
  // Both outcomes were exercised.
  EXPECT_GT(parsed - passed, kMutations / 20);
  EXPECT_GT(passed, kMutations / 200);
}

TEST(StatisticsMutationTest, MutatedFieldsAreRefusedOrConsistent) {
  Rng rng(102);
  const std::vector<v1::StatisticsBatch> batches = ValidBatches(rng);
  StatisticsReader reader;
  int passed = 0;
  for (int i = 0; i < kMutations && !HasFatalFailure(); ++i) {
    v1::StatisticsBatch batch = batches[i % batches.size()];
    for (uint64_t changes = 1 + rng() % 3; changes > 0; --changes) MutateFields(rng, &batch);
    passed += DecodeAndCheck(batch, &reader);
  }
  EXPECT_GT(kMutations - passed, kMutations / 20);
  EXPECT_GT(passed, kMutations / 200);
}

}  // namespace
}  // namespace calib
