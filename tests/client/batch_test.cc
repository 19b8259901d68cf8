#include "client/cpp/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace calib::client {
namespace {

constexpr size_t kMessageLimit = size_t{4} << 20;

// Statistics with large counts in every counter of the first `pages` (at most 255) pages: nothing packs worse.
LayerStatistics Dense(size_t channels, int pages) {
  ObserverConfig config;
  config.channel_axis = 0;
  LayerStatistics statistics(config);
  statistics.SetChannelCount(channels).IgnoreError();
  for (size_t i = 0; i < channels; ++i) {
    ChannelStatistics& channel = statistics.mutable_channels()[i];
    for (int page = 0; page < pages; ++page) {
      const uint64_t count = (uint64_t{1} << 33) + i;
      for (int counter = 0; counter < 128; ++counter) channel.histogram->AddKey(128 * page + counter, count);
      channel.range.count += 128 * count;
    }
    channel.range.min = 0;
    channel.range.max = static_cast<float>(BinBegin(128 * pages - 1, 7));
  }
  return statistics;
}

// Takes batches until nothing is left, and puts them together again.
LayerMap TakeAll(LayerMap layers, int* batches) {
  BatchWriter writer;
  LayerMap sum;
  const LayerMap all = layers;
  while (!layers.empty()) {
    v1::StatisticsBatch batch;
    const std::vector<uint32_t> taken = writer.Take([](uint32_t layer) { return 10 * layer; }, &layers, &batch);
    EXPECT_FALSE(taken.empty());
    EXPECT_LT(batch.ByteSizeLong(), kMessageLimit);
    StatisticsReader reader;
    const absl::Status status = reader.Decode(batch, [](uint32_t) { return ObserverKind::kHistogram; });
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok() || taken.empty()) return sum;
    EXPECT_EQ(reader.layers().size(), taken.size());
    for (size_t i = 0; i < taken.size(); ++i) {
      EXPECT_EQ(reader.layers()[i].handle, 10 * taken[i]);
      LayerStatistics& statistics = sum.try_emplace(taken[i], all.at(taken[i]).config()).first->second;
      EXPECT_TRUE(CheckMergeRows(reader.layers()[i], statistics).ok());
      MergeRows(reader.layers()[i], &statistics);
    }
    ++*batches;
  }
  return sum;
}

void ExpectSame(const LayerMap& a, const LayerMap& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [layer, statistics] : a) ASSERT_TRUE(statistics.channels() == b.at(layer).channels()) << layer;
}

TEST(BatchWriter, PutsManySmallLayersIntoOneMessage) {
  LayerMap layers;
  for (uint32_t i = 0; i < 50; ++i) layers.emplace(i, Dense(1, 20));
  int batches = 0;
  ExpectSame(TakeAll(layers, &batches), layers);
  EXPECT_EQ(batches, 1);
}

TEST(BatchWriter, SplitsBetweenLayers) {
  LayerMap layers;
  for (uint32_t i = 0; i < 20; ++i) layers.emplace(3 * i, Dense(1, 255));
  int batches = 0;
  ExpectSame(TakeAll(layers, &batches), layers);
  EXPECT_GT(batches, 1);
}

TEST(BatchWriter, SpreadsOneLargeLayerOverSeveralMessages) {
  LayerMap layers;
  layers.emplace(1, Dense(1, 1));
  layers.emplace(2, Dense(40, 255));
  layers.emplace(3, Dense(1, 1));
  int batches = 0;
  ExpectSame(TakeAll(layers, &batches), layers);
  EXPECT_GT(batches, 3);
}

TEST(BatchWriter, TakesTheMostChannelsThatAServerAllows) {
  LayerMap layers;
  ObserverConfig config;
  config.channel_axis = 0;
  LayerStatistics statistics(config);
  ASSERT_TRUE(statistics.SetChannelCount(65536).ok());
  for (ChannelStatistics& channel : statistics.mutable_channels()) {
    channel.histogram->AddKey(0x3f80, 1);
    channel.range = {1, 1, 1, 0, 0, 0};
  }
  layers.emplace(1, std::move(statistics));
  int batches = 0;
  ExpectSame(TakeAll(layers, &batches), layers);
}

TEST(BatchWriter, TakesLayersWithoutValues) {
  LayerMap layers;
  ObserverConfig config;
  config.channel_axis = 0;
  ASSERT_TRUE(layers.try_emplace(1, config).first->second.SetChannelCount(4).ok());
  ASSERT_TRUE(layers.try_emplace(2, config).first->second.SetChannelCount(200000).ok());
  int batches = 0;
  ExpectSame(TakeAll(layers, &batches), layers);
}

}  // namespace
}  // namespace calib::client
