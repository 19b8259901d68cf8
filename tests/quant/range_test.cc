#include "quant/range.h"

#include <bit>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace calib {
namespace {

Range Make(float min, float max, uint64_t count) {
  Range range;
  range.min = min;
  range.max = max;
  range.count = count;
  return range;
}

TEST(RangeTest, EmptyRangeIsTheIdentity) {
  const Range range = Make(-2, 3, 7);
  Range left = range;
  left.Merge(Range{});
  EXPECT_EQ(left, range);
  Range right;
  right.Merge(range);
  EXPECT_EQ(right, range);
  EXPECT_TRUE(Range{}.empty());
  EXPECT_EQ(Range{}.values(), 0u);
}

TEST(RangeTest, MergingTakesExtremesAndAddsCounts) {
  Range a = Make(-2, 3, 7);
  a.nan = 1;
  a.positive_infinity = 2;
  Range b = Make(-1, 5, 10);
  b.nan = 10;
  b.negative_infinity = 4;
  a.Merge(b);
  EXPECT_EQ(a.min, -2);
  EXPECT_EQ(a.max, 5);
  EXPECT_EQ(a.count, 17u);
  EXPECT_EQ(a.nan, 11u);
  EXPECT_EQ(a.infinities(), 6u);
  EXPECT_EQ(a.values(), 34u);
}

TEST(RangeTest, OverflowIsRefusedAndTheLastValueFits) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  Range a = Make(0, 1, kMost - 10);
  a.nan = 4;
  EXPECT_TRUE(a.CheckMerge(Make(0, 1, 6)).ok());
  EXPECT_EQ(a.CheckMerge(Make(0, 1, 7)).code(), absl::StatusCode::kOutOfRange);
  Range infinities;
  infinities.negative_infinity = 7;
  EXPECT_EQ(a.CheckMerge(infinities).code(), absl::StatusCode::kOutOfRange);
}

TEST(RangeTest, LessByBitsOrdersAllFloats) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float in_order[] = {
      -kInfinity, -1e30f, -1,    -1.2e-38f, std::bit_cast<float>(0x80000001u), 0, std::bit_cast<float>(1u),
      1.2e-38f,   1,      1e30f, kInfinity};
  for (const float& a : in_order) {
    for (const float& b : in_order) EXPECT_EQ(LessByBits(a, b), &a < &b) << a << " " << b;
  }
}

}  // namespace
}  // namespace calib
