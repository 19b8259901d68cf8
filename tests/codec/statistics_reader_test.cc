#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "tests/codec/random_statistics.h"

namespace calib {
namespace {

using test::KindOfHandle;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMaxCount = std::numeric_limits<uint64_t>::max();

// Layer 1: one row, no histogram. Layer 2: three rows with histograms, the last without finite values.
v1::StatisticsBatch TwoLayers() {
  const ObserverConfig minmax{ObserverKind::kMinMax, std::nullopt, 7};
  const ObserverConfig histogram{ObserverKind::kHistogram, 1, 7};
  return test::Encode(
      {{1, test::Observe(minmax, {-1.5f, 2.5f})}, {2, test::Observe(histogram, {1, 10, NAN, 3, 30, INFINITY}, 3)}});
}

TEST(StatisticsReaderTest, ReadsRows) {
  const v1::StatisticsBatch batch = TwoLayers();
  StatisticsReader reader;
  ASSERT_TRUE(reader.Decode(batch, KindOfHandle).ok());
  ASSERT_EQ(reader.layers().size(), 2u);
  const LayerView& minmax = reader.layers()[0];
  EXPECT_EQ(minmax.handle, 1u);
  ASSERT_EQ(minmax.rows.size(), 1u);
  EXPECT_EQ(minmax.rows[0].range, (Range{.min = -1.5f, .max = 2.5f, .count = 2}));
  EXPECT_EQ(minmax.rows[0].histogram, nullptr);
  const LayerView& histogram = reader.layers()[1];
  EXPECT_EQ(histogram.handle, 2u);
  ASSERT_EQ(histogram.rows.size(), 3u);
  EXPECT_EQ(histogram.rows[1].range, (Range{.min = 10, .max = 30, .count = 2}));
  EXPECT_EQ(histogram.rows[1].histogram, &batch.histogram(1));
  // Without finite values: zeros on the wire, the identity of merging once read.
  EXPECT_EQ(batch.min(3), 0);
  EXPECT_EQ(histogram.rows[2].range, (Range{.nan = 1, .positive_infinity = 1}));
}

TEST(StatisticsReaderTest, AnEmptyBatchIsFine) {
  StatisticsReader reader;
  EXPECT_TRUE(reader.Decode({}, KindOfHandle).ok());
  EXPECT_THAT(reader.layers(), IsEmpty());
}

TEST(StatisticsReaderTest, ReusesItsMemory) {
  StatisticsReader reader;
  const v1::StatisticsBatch large = TwoLayers();
  ASSERT_TRUE(reader.Decode(large, KindOfHandle).ok());
  const RowView* const rows = reader.layers()[0].rows.data();
  const v1::StatisticsBatch small = test::Encode({{7, test::Observe({ObserverKind::kMinMax, std::nullopt, 7}, {4})}});
  ASSERT_TRUE(reader.Decode(small, KindOfHandle).ok());
  ASSERT_EQ(reader.layers().size(), 1u);
  EXPECT_EQ(reader.layers()[0].rows.data(), rows);
  EXPECT_EQ(reader.layers()[0].rows[0].range, (Range{.min = 4, .max = 4, .count = 1}));
  EXPECT_EQ(reader.layers()[0].rows[0].histogram, nullptr);
}

TEST(StatisticsReaderTest, HugeBatchesAreReadAndNotKept) {
  StatisticsReader reader;
  v1::StatisticsBatch batch;
  batch.add_layer(1);
  batch.add_channels(static_cast<uint32_t>(StatisticsReader::kKeptRows + 1));
  for (size_t i = 0; i <= StatisticsReader::kKeptRows; ++i) {
    batch.add_count(i + 1);
    batch.add_min(0);
    batch.add_max(static_cast<float>(i));
  }
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(reader.Decode(batch, KindOfHandle).ok());
    ASSERT_EQ(reader.layers()[0].rows.size(), StatisticsReader::kKeptRows + 1);
    EXPECT_EQ(reader.layers()[0].rows.back().range.count, StatisticsReader::kKeptRows + 1);
  }
  const v1::StatisticsBatch small = TwoLayers();
  ASSERT_TRUE(reader.Decode(small, KindOfHandle).ok());
  EXPECT_EQ(reader.layers()[0].rows[0].range.count, 2u);
}

TEST(StatisticsReaderTest, SubnormalsKeepTheirOrder) {
  const float least = std::bit_cast<float>(1u);
  const float next = std::bit_cast<float>(2u);
  v1::StatisticsBatch batch;
  batch.add_layer(1);
  batch.add_count(2);
  batch.add_min(-next);
  batch.add_max(least);
  StatisticsReader reader;
  ASSERT_TRUE(reader.Decode(batch, KindOfHandle).ok());
  EXPECT_EQ(std::bit_cast<uint32_t>(reader.layers()[0].rows[0].range.min), 0x80000002u);
  batch.set_min(0, next);
  EXPECT_EQ(GetReason(reader.Decode(batch, KindOfHandle)), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
}

struct MalformedBatch {
  v1::ErrorReason reason;
  std::string message;  // a part of it
  std::function<void(v1::StatisticsBatch*)> spoil;
};

constexpr v1::ErrorReason kInconsistent = v1::ERROR_REASON_STATISTICS_INCONSISTENT;
constexpr v1::ErrorReason kHistogram = v1::ERROR_REASON_HISTOGRAM_INVALID;
constexpr v1::ErrorReason kOverflow = v1::ERROR_REASON_COUNT_OVERFLOW;

TEST(StatisticsReaderTest, RefusesWhatContradictsItself) {
  const std::vector<MalformedBatch> cases = {
      {kInconsistent, "layer handle 1 comes after 2", [](auto* b) { b->mutable_layer()->SwapElements(0, 1); }},
      {kInconsistent, "layer handle 1 comes after 1", [](auto* b) { b->set_layer(1, 1); }},
      {kInconsistent, "`channels` has 1 entries for 2 layers", [](auto* b) { b->mutable_channels()->RemoveLast(); }},
      {kInconsistent, "layer handle 1 has 0 channels", [](auto* b) { b->set_channels(0, 0); }},
      {kInconsistent, "`count` has 4 entries for the batch's 2 rows", [](auto* b) { b->clear_channels(); }},
      {kInconsistent, "`count` has 4 entries for the batch's 8589934590 rows",
       [](auto* b) {
         b->set_channels(0, 0xffffffffu);
         b->set_channels(1, 0xffffffffu);
       }},
      {kInconsistent, "`count` has 4 entries for the batch's 0 rows",
       [](auto* b) {
         b->clear_layer();
         b->clear_channels();
       }},
      {kInconsistent, "`count` has 5", [](auto* b) { b->add_count(1); }},
      {kInconsistent, "`min` has 3", [](auto* b) { b->mutable_min()->RemoveLast(); }},
      {kInconsistent, "`max` has 5", [](auto* b) { b->add_max(1); }},
      {kInconsistent, "`nan` has 3", [](auto* b) { b->mutable_nan()->RemoveLast(); }},
      {kInconsistent, "`positive_infinity` has 5", [](auto* b) { b->add_positive_infinity(0); }},
      {kInconsistent, "`negative_infinity` has 1", [](auto* b) { b->add_negative_infinity(0); }},
      {kInconsistent, "`histogram` has 2 entries", [](auto* b) { b->mutable_histogram()->RemoveLast(); }},
      {kInconsistent, "`histogram` has 4 entries", [](auto* b) { b->add_histogram(); }},
      {kInconsistent, "layer handle 1, row 0: min 3 is greater than max 2.5", [](auto* b) { b->set_min(0, 3); }},
      {kInconsistent, "layer handle 2, row 1: min nan", [](auto* b) { b->set_min(2, NAN); }},
      {kInconsistent, "layer handle 1, row 0: min -inf", [](auto* b) { b->set_min(0, -INFINITY); }},
      {kInconsistent, "must be finite", [](auto* b) { b->set_max(0, INFINITY); }},
      {kInconsistent, "-0 as min or max", [](auto* b) { b->set_min(0, -0.0f); }},
      {kInconsistent, "-0 as min or max", [](auto* b) { b->set_max(0, -0.0f); }},
      {kInconsistent, "-0 as min or max",
       [](auto* b) {
         b->set_min(0, 0);
         b->set_max(0, -0.0f);
       }},
      {kInconsistent, "layer handle 2, row 2: min 1 and max 0 without a finite value",
       [](auto* b) { b->set_min(3, 1); }},
      {kInconsistent, "without a finite value", [](auto* b) { b->set_max(3, -0.0f); }},
      {kOverflow, "layer handle 2, row 2", [](auto* b) { b->set_nan(3, kMaxCount); }},
      {kOverflow, "layer handle 1, row 0",
       [](auto* b) {
         b->set_count(0, kMaxCount);
         b->set_nan(0, 1);
       }},
      {kOverflow, "layer handle 2, row 1",
       [](auto* b) {
         for (int i = 0; i < 4; ++i) b->add_negative_infinity(kMaxCount);
         b->set_negative_infinity(0, 1);
         b->set_negative_infinity(1, 1);
       }},
      {kHistogram, "layer handle 2, row 0: ", [](auto* b) { b->set_count(1, 3); }},
      {kHistogram, "layer handle 2, row 1: ", [](auto* b) { b->set_max(2, 1000); }},
      {kHistogram, "layer handle 2, row 0: mantissa_bits is 8",
       [](auto* b) { b->mutable_histogram(0)->set_mantissa_bits(8); }},
      {kHistogram,
       "layer handle 2, row 1: ", [](auto* b) { b->mutable_histogram(1)->mutable_counts()->push_back('\1'); }},
      {kHistogram, "layer handle 2, row 1: ", [](auto* b) { b->mutable_histogram(1)->set_page(0, 512); }},
      {kHistogram, "layer handle 2, row 2: ", [](auto* b) { *b->mutable_histogram(2) = b->histogram(0); }},
  };
  StatisticsReader reader;
  for (const MalformedBatch& malformed : cases) {
    v1::StatisticsBatch batch = TwoLayers();
    ASSERT_TRUE(reader.Decode(batch, KindOfHandle).ok());
    malformed.spoil(&batch);
    const absl::Status status = reader.Decode(batch, KindOfHandle);
    EXPECT_EQ(GetReason(status), malformed.reason) << status << " for " << malformed.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
    EXPECT_THAT(reader.layers(), IsEmpty());
  }
}

TEST(StatisticsReaderTest, ErrorsNameHandleAndRow) {
  v1::StatisticsBatch batch = TwoLayers();
  batch.set_min(2, 99);
  StatisticsReader reader;
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(reader.Decode(batch, KindOfHandle));
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->metadata().at("handle"), "2");
  EXPECT_EQ(info->metadata().at("row"), "1");
}

TEST(StatisticsReaderTest, AHistogramSumThatWrapsIsAnOverflow) {
  // Two counters of 2^63 in one page of 8-byte pairs.
  v1::StatisticsBatch batch;
  batch.add_layer(2);
  batch.add_count(0);
  batch.add_min(0);
  batch.add_max(0);
  v1::Bfloat16Histogram* const histogram = batch.add_histogram();
  histogram->set_mantissa_bits(7);
  histogram->add_page(127);
  histogram->set_encoding("\x18");
  histogram->set_sparse_pairs("\x01");
  histogram->set_counts(std::string("\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00\x00\x00\x00\x80", 18));
  StatisticsReader reader;
  EXPECT_EQ(GetReason(reader.Decode(batch, KindOfHandle)), kOverflow);
}

TEST(StatisticsReaderTest, SaysWhichLayersOweHistograms) {
  const v1::StatisticsBatch batch = TwoLayers();
  StatisticsReader reader;
  const absl::Status status = reader.Decode(batch, [](uint32_t) { return ObserverKind::kHistogram; });
  EXPECT_EQ(GetReason(status), kInconsistent);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("3 entries, but the layers with a histogram observer have 4 rows"));
}

}  // namespace
}  // namespace calib
