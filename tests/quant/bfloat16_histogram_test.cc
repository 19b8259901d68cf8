#include "quant/bfloat16_histogram.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace calib {
namespace {

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

TEST(Bfloat16KeyTest, IsTheUpperHalfOfTheBits) {
  EXPECT_EQ(Bfloat16Key(1.0f), 0x3f80u);
  EXPECT_EQ(Bfloat16Key(-1.0f), 0xbf80u);
  EXPECT_EQ(Bfloat16Key(std::nextafter(1.0f, 0.0f)), 0x3f7fu);
  EXPECT_EQ(Bfloat16Key(0.0f), 0u);
  EXPECT_EQ(Bfloat16Key(-0.0f), 0u);
  EXPECT_EQ(Bfloat16Key(std::bit_cast<float>(0x8000ffffu)), 0u);
  EXPECT_EQ(Bfloat16Key(std::bit_cast<float>(0x80010000u)), 0x8001u);
  EXPECT_EQ(Bfloat16Key(std::numeric_limits<float>::max()), 0x7f7fu);
}

TEST(BinEdgeTest, BinsHoldTheirNumbersAndTouch) {
  for (int mantissa_bits = 4; mantissa_bits <= 7; ++mantissa_bits) {
    const uint32_t step = 1u << (7 - mantissa_bits);
    const uint32_t positive = 255u << mantissa_bits;
    for (uint32_t key = 0; key < positive; ++key) {
      const float first = std::bit_cast<float>(key * step << 16);
      ASSERT_EQ(BinBegin(key, mantissa_bits), first) << key;
      ASSERT_EQ(BinEnd(key, mantissa_bits), key + 1 == positive ? 0x1p128 : BinBegin(key + 1, mantissa_bits)) << key;
      const uint32_t negative = key + (256u << mantissa_bits);
      ASSERT_EQ(BinBegin(negative, mantissa_bits), -BinBegin(key, mantissa_bits)) << key;
      ASSERT_EQ(BinEnd(negative, mantissa_bits), -BinEnd(key, mantissa_bits)) << key;
    }
  }
}

TEST(Bfloat16HistogramTest, CountsByKeyAndTakesPagesAsTheyAreTouched) {
  Bfloat16Histogram histogram;
  EXPECT_EQ(histogram.total(), 0u);
  EXPECT_TRUE(histogram.lossless());
  EXPECT_TRUE(histogram.page(127).empty());
  histogram.AddKey(0x3f80, 3);
  histogram.AddKey(0x3f81, 2);
  histogram.AddKey(0x4000, 0);  // nothing
  EXPECT_EQ(histogram.total(), 5u);
  ASSERT_EQ(histogram.page(127).size(), 128u);
  EXPECT_EQ(histogram.page(127)[0], 3u);
  EXPECT_EQ(histogram.count(0x3f81), 2u);
  EXPECT_TRUE(histogram.page(128).empty());
  EXPECT_EQ(histogram.count(0x4000), 0u);

  const std::vector<uint32_t> counters(128, 2);
  histogram.AddPage(127, absl::MakeConstSpan(counters));
  histogram.AddPage(200, absl::MakeConstSpan(std::vector<uint64_t>(128, 0)));
  EXPECT_EQ(histogram.count(0x3f80), 5u);
  EXPECT_EQ(histogram.total(), 5u + 256u);
  EXPECT_TRUE(histogram.page(200).empty());
}

TEST(Bfloat16HistogramTest, OverflowIsRefusedAndTheLastValueFits) {
  Bfloat16Histogram histogram;
  histogram.AddKey(5, kMost - 1);
  EXPECT_TRUE(histogram.CheckAdd(1).ok());
  EXPECT_EQ(histogram.CheckAdd(2).code(), absl::StatusCode::kOutOfRange);
  Bfloat16Histogram two;
  two.AddKey(900, 2);
  EXPECT_EQ(histogram.CheckMerge(two).code(), absl::StatusCode::kOutOfRange);
  Bfloat16Histogram one;
  one.AddKey(900, 1);
  ASSERT_TRUE(histogram.CheckMerge(one).ok());
  histogram.Merge(one);
  EXPECT_EQ(histogram.total(), kMost);
}

TEST(Bfloat16HistogramTest, CoarserCannotBeMergedIntoFiner) {
  const Bfloat16Histogram coarse(4);
  const Bfloat16Histogram fine(7);
  EXPECT_EQ(fine.CheckMerge(coarse).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(coarse.CheckMerge(fine).ok());
}

TEST(Bfloat16HistogramTest, CoarseningAddsNeighboursAndTellsWhatIsLost) {
  Bfloat16Histogram fine;
  fine.AddKey(0x3f80, 1);
  fine.AddKey(0x3f88, 4);
  EXPECT_TRUE(fine.Coarsened(4).lossless());
  fine.AddKey(0x3f87, 2);
  EXPECT_TRUE(fine.lossless());
  const Bfloat16Histogram coarse = fine.Coarsened(4);
  EXPECT_FALSE(coarse.lossless());
  EXPECT_EQ(coarse.count(0x3f80 >> 3), 3u);
  EXPECT_EQ(coarse.count(0x3f88 >> 3), 4u);
  EXPECT_EQ(coarse.total(), 7u);
  EXPECT_EQ(coarse.page(127).size(), 16u);
  EXPECT_EQ(fine.Coarsened(7), fine);
}

TEST(Bfloat16HistogramTest, EqualityIsOfContents) {
  Bfloat16Histogram a, b;
  a.AddKey(0x3f80, 1);
  a.AddKey(0x4100, 1);
  b.AddKey(0x4100, 1);
  EXPECT_FALSE(a == b);
  b.AddKey(0x3f80, 1);  // pages touched in another order
  EXPECT_TRUE(a == b);
  b.MarkLossy();
  EXPECT_FALSE(a == b);
  EXPECT_FALSE(Bfloat16Histogram(7) == Bfloat16Histogram(6));
  Bfloat16Histogram c, d;
  c.AddKey(0x3f80, 1);
  d.AddKey(0x4100, 1);
  EXPECT_FALSE(c == d);
}

TEST(Bfloat16HistogramTest, MemoryStaysSmall) {
  EXPECT_LE(Bfloat16Histogram().MemoryBytes(), 128u);
  Bfloat16Histogram histogram;
  for (uint32_t page = 100; page < 120; ++page) {
    histogram.AddKey(page << 7, 1);
    histogram.AddKey((page + 256) << 7, 1);
  }
  EXPECT_LE(histogram.MemoryBytes(), 48u << 10);
  EXPECT_GE(histogram.MemoryBytes(), 40u << 10);
  const Bfloat16Histogram copy = histogram;
  EXPECT_LE(copy.MemoryBytes(), histogram.MemoryBytes());
  EXPECT_EQ(copy, histogram);
}

TEST(Bfloat16HistogramTest, HoldsEveryPage) {
  Bfloat16Histogram histogram(4);
  for (int page = Bfloat16Histogram::kPages - 1; page >= 0; --page) {
    histogram.AddKey(static_cast<uint32_t>(page) << 4 | 3, static_cast<uint64_t>(page) + 1);
  }
  for (int page = 0; page < Bfloat16Histogram::kPages; ++page) {
    ASSERT_EQ(histogram.page(page)[3], static_cast<uint64_t>(page) + 1);
  }
  EXPECT_EQ(histogram.total(), 512u * 513u / 2);
}

}  // namespace
}  // namespace calib
