#include "proto/codec/statistics_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>

#include "proto/codec/error.h"
#include "tests/codec/random_statistics.h"

namespace calib {
namespace {

using test::KindOfHandle;
using test::Rng;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ObserverConfig Config(ObserverKind kind, std::optional<int> channel_axis = std::nullopt, int mantissa_bits = 7) {
  return {kind, channel_axis, mantissa_bits};
}

// Decodes a batch and merges its only layer into `statistics`, if it may.
absl::Status DecodeAndMerge(const v1::StatisticsBatch& batch, LayerStatistics* statistics) {
  StatisticsReader reader;
  const absl::Status status = reader.Decode(batch, KindOfHandle);
  if (!status.ok()) return status;
  const LayerView& layer = reader.layers().at(0);
  if (absl::Status check = CheckMergeRows(layer, *statistics); !check.ok()) return check;
  MergeRows(layer, statistics);
  return absl::OkStatus();
}

TEST(StatisticsWriterTest, LeavesOutColumnsThatSayNothing) {
  const v1::StatisticsBatch batch = test::Encode({{3, test::Observe(Config(ObserverKind::kMinMax), {1, -2})},
                                                  {4, test::Observe(Config(ObserverKind::kHistogram), {-0.0f, 3})}});
  EXPECT_THAT(batch.layer(), ElementsAre(3, 4));
  EXPECT_THAT(batch.channels(), IsEmpty());
  EXPECT_THAT(batch.count(), ElementsAre(2, 2));
  EXPECT_THAT(batch.min(), ElementsAre(-2, 0));
  EXPECT_THAT(batch.max(), ElementsAre(1, 3));
  EXPECT_THAT(batch.nan(), IsEmpty());
  EXPECT_THAT(batch.positive_infinity(), IsEmpty());
  EXPECT_THAT(batch.negative_infinity(), IsEmpty());
  EXPECT_EQ(batch.histogram_size(), 1);
}

TEST(StatisticsWriterTest, FillsColumnsFromTheirFirstUse) {
  const v1::StatisticsBatch batch =
      test::Encode({{1, test::Observe(Config(ObserverKind::kMinMax), {5})},
                    {3, test::Observe(Config(ObserverKind::kMinMax, 1), {NAN, 2, INFINITY, NAN, 1, 2}, 3)},
                    {5, test::Observe(Config(ObserverKind::kMinMax), {-INFINITY})}});
  EXPECT_THAT(batch.channels(), ElementsAre(1, 3, 1));
  EXPECT_THAT(batch.count(), ElementsAre(1, 0, 2, 1, 0));
  EXPECT_THAT(batch.min(), ElementsAre(5, 0, 1, 2, 0));
  EXPECT_THAT(batch.max(), ElementsAre(5, 0, 2, 2, 0));
  EXPECT_THAT(batch.nan(), ElementsAre(0, 2, 0, 0, 0));
  EXPECT_THAT(batch.positive_infinity(), ElementsAre(0, 0, 0, 1, 0));
  EXPECT_THAT(batch.negative_infinity(), ElementsAre(0, 0, 0, 0, 1));
}

TEST(StatisticsWriterTest, LayersWithoutChannelsAreLeftOut) {
  const v1::StatisticsBatch batch = test::Encode({{2, LayerStatistics(Config(ObserverKind::kHistogram))}});
  EXPECT_EQ(batch.ByteSizeLong(), 0u);
}

TEST(StatisticsCodecTest, RandomLayersSurviveTheRoundTrip) {
  Rng rng(11);
  StatisticsReader reader;  // reused, so that nothing of an older batch may show
  for (int round = 0; round < 300; ++round) {
    const int mantissa_bits = 4 + static_cast<int>(rng() % 4);
    const std::map<uint32_t, LayerStatistics> layers = test::RandomLayers(rng, 1 + round % 12, mantissa_bits);
    v1::StatisticsBatch batch;
    ASSERT_TRUE(batch.ParseFromString(test::Encode(layers).SerializeAsString()));
    const absl::Status status = reader.Decode(batch, KindOfHandle);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(reader.layers().size(), layers.size());
    auto expected = layers.begin();
    for (const LayerView& layer : reader.layers()) {
      EXPECT_EQ(layer.handle, expected->first);
      LayerStatistics merged(expected->second.config());
      ASSERT_TRUE(CheckMergeRows(layer, merged).ok());
      MergeRows(layer, &merged);
      EXPECT_EQ(merged.channels(), expected->second.channels());
      ++expected;
    }
  }
}

TEST(StatisticsCodecTest, MergingRowsIsMergingStatistics) {
  Rng rng(12);
  for (int round = 0; round < 50; ++round) {
    LayerStatistics merged(Config(ObserverKind::kHistogram, 1, 5));
    LayerStatistics expected(Config(ObserverKind::kHistogram, 1, 5));
    for (int part = 0; part < 4; ++part) {
      // A finer histogram feeds a coarser one.
      const LayerStatistics statistics =
          test::Observe(Config(ObserverKind::kHistogram, 1, 5 + part % 3), test::RandomTensor(rng, 60), 4);
      ASSERT_TRUE(DecodeAndMerge(test::Encode({{2, statistics}}), &merged).ok());
      expected.Merge(statistics);
    }
    EXPECT_EQ(merged.channels(), expected.channels());
  }
}

TEST(CheckMergeRowsTest, ChannelCountMustStay) {
  LayerStatistics statistics = test::Observe(Config(ObserverKind::kMinMax, 1), {1, 2, 3}, 3);
  const LayerStatistics before = statistics;
  const LayerStatistics two = test::Observe(Config(ObserverKind::kMinMax, 1), {1, 2}, 2);
  const absl::Status status = DecodeAndMerge(test::Encode({{1, two}}), &statistics);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED) << status;
  EXPECT_EQ(GetErrorInfo(status)->metadata().at("handle"), "1");
  EXPECT_EQ(statistics.channels(), before.channels());
}

TEST(CheckMergeRowsTest, APerTensorLayerHasOneRow) {
  LayerStatistics statistics(Config(ObserverKind::kMinMax));
  const LayerStatistics two = test::Observe(Config(ObserverKind::kMinMax, 1), {1, 2}, 2);
  const absl::Status status = DecodeAndMerge(test::Encode({{1, two}}), &statistics);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_OBSERVER_MISMATCH) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("2 channels"));
}

TEST(CheckMergeRowsTest, HistogramsMustBeThoseOfTheObserver) {
  LayerStatistics minmax(Config(ObserverKind::kMinMax));
  LayerStatistics histogram(Config(ObserverKind::kHistogram));
  const v1::StatisticsBatch with = test::Encode({{2, test::Observe(Config(ObserverKind::kHistogram), {1})}});
  const v1::StatisticsBatch without = test::Encode({{1, test::Observe(Config(ObserverKind::kMinMax), {1})}});
  EXPECT_EQ(GetReason(DecodeAndMerge(with, &minmax)), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(GetReason(DecodeAndMerge(without, &histogram)), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_TRUE(DecodeAndMerge(with, &histogram).ok());
  EXPECT_TRUE(DecodeAndMerge(without, &minmax).ok());

  const v1::StatisticsBatch coarse =
      test::Encode({{2, test::Observe(Config(ObserverKind::kHistogram, std::nullopt, 6), {1})}});
  const absl::Status status = DecodeAndMerge(coarse, &histogram);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_THAT(std::string(status.message()), HasSubstr("6 mantissa bits is coarser than the session's 7"));
}

TEST(CheckMergeRowsTest, CountsMustNotOverflow) {
  LayerStatistics statistics(Config(ObserverKind::kMinMax));
  v1::StatisticsBatch batch = test::Encode({{1, test::Observe(Config(ObserverKind::kMinMax), {1})}});
  batch.set_count(0, std::numeric_limits<uint64_t>::max() - 1);
  ASSERT_TRUE(DecodeAndMerge(batch, &statistics).ok());
  batch.set_count(0, 1);
  ASSERT_TRUE(DecodeAndMerge(batch, &statistics).ok());
  const LayerStatistics full = statistics;
  const absl::Status status = DecodeAndMerge(batch, &statistics);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_COUNT_OVERFLOW) << status;
  EXPECT_EQ(statistics.channels(), full.channels());
  // NaN and infinities count towards the same total.
  batch.set_count(0, 0);
  batch.set_min(0, 0);
  batch.set_max(0, 0);
  batch.add_nan(1);
  EXPECT_EQ(GetReason(DecodeAndMerge(batch, &statistics)), v1::ERROR_REASON_COUNT_OVERFLOW);
}

v1::TensorChunk Chunk(v1::DataType type, size_t bytes) {
  v1::TensorChunk chunk;
  chunk.set_layer(9);
  chunk.set_data_type(type);
  chunk.add_shape(1000);
  chunk.add_shape(7);
  chunk.set_offset(123);
  chunk.set_data(std::string(bytes, '\x3f'));
  return chunk;
}

TEST(TensorChunkTest, BorrowsTheMessage) {
  const v1::TensorChunk chunk = Chunk(v1::DATA_TYPE_FLOAT16, 10);
  const TensorView view = DecodeTensorChunk(chunk).value();
  EXPECT_EQ(view.type, DataType::kFloat16);
  EXPECT_THAT(view.shape, ElementsAre(1000, 7));
  EXPECT_EQ(view.shape.data(), chunk.shape().data());
  EXPECT_EQ(view.offset, 123u);
  EXPECT_EQ(view.data.size(), 10u);
  EXPECT_EQ(static_cast<const void*>(view.data.data()), chunk.data().data());
  EXPECT_EQ(DecodeTensorChunk(Chunk(v1::DATA_TYPE_FLOAT32, kMaxTensorChunkBytes))->type, DataType::kFloat32);
  EXPECT_EQ(DecodeTensorChunk(Chunk(v1::DATA_TYPE_BFLOAT16, 0))->type, DataType::kBfloat16);
}

TEST(TensorChunkTest, RefusesWrongTypesAndSizes) {
  const auto message_of = [](const v1::TensorChunk& chunk) {
    const absl::Status status = DecodeTensorChunk(chunk).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_TENSOR_INVALID) << status;
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("handle"), "9");
    return std::string(status.message());
  };
  EXPECT_THAT(message_of(Chunk(v1::DATA_TYPE_UNSPECIFIED, 8)), HasSubstr("number 0"));
  EXPECT_THAT(message_of(Chunk(static_cast<v1::DataType>(4), 8)), HasSubstr("number 4"));
  EXPECT_THAT(message_of(Chunk(v1::DATA_TYPE_FLOAT32, 7)),
              HasSubstr("7 bytes of data are not whole elements of float32"));
  EXPECT_THAT(message_of(Chunk(v1::DATA_TYPE_BFLOAT16, 5)), HasSubstr("whole elements"));
  EXPECT_THAT(message_of(Chunk(v1::DATA_TYPE_FLOAT32, kMaxTensorChunkBytes + 4)), HasSubstr("more than the 1048576"));
}

}  // namespace
}  // namespace calib
