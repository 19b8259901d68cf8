#include "quant/packed_histogram.h"

#include <functional>
#include <limits>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/observe.h"
#include "tests/support/random_tensors.h"

namespace calib {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMostPacked = std::numeric_limits<uint64_t>::max();

Range RangeOf(float min, float max, uint64_t count) {
  Range range;
  range.min = min;
  range.max = max;
  range.count = count;
  return range;
}

// Values -2, 1 (twice), 1.5 and a dense page of [4, 8).
Bfloat16Histogram Example() {
  Bfloat16Histogram histogram;
  histogram.AddKey(0xc000, 1);
  histogram.AddKey(0x3f80, 2);
  histogram.AddKey(0x3fc0, 1);
  for (uint32_t key = 0x4080; key < 0x4100; ++key) histogram.AddKey(key, 3);
  return histogram;
}
Range ExampleRange() { return RangeOf(-2, 7.96875f, 4 + 3 * 128); }

PackedHistogram Packed(const Bfloat16Histogram& histogram) {
  PackedHistogram packed;
  Pack(histogram, &packed);
  return packed;
}

TEST(PackTest, WritesTheShortestForm) {
  const PackedHistogram packed = Packed(Example());
  EXPECT_EQ(packed.mantissa_bits, 7u);
  EXPECT_TRUE(packed.lossless);
  EXPECT_THAT(packed.page, testing::ElementsAre(127, 129, 384));
  EXPECT_EQ(packed.encoding, std::string("\x11\x01\x11", 3));
  EXPECT_EQ(packed.sparse_pairs, std::string("\x01\x00", 2));
  std::string counts("\x00\x02\x40\x01", 4);
  counts += std::string(128, '\x03');
  counts += std::string("\x00\x01", 2);
  EXPECT_EQ(packed.counts, counts);
}

TEST(PackTest, WidthsFollowTheGreatestCountAndTiesAreDense) {
  const std::pair<uint64_t, char> widths[] = {{0xff, 1},       {0x100, 2},       {0xffff, 2},     {0x10000, 4},
                                              {0xffffffff, 4}, {0x100000000, 8}, {kMostPacked, 8}};
  for (const auto& [count, width] : widths) {
    Bfloat16Histogram histogram;
    histogram.AddKey(0x3f85, count);
    const PackedHistogram packed = Packed(histogram);
    EXPECT_EQ(packed.encoding, std::string(1, static_cast<char>(0x10 + width)));
    EXPECT_EQ(packed.counts.size(), 1u + width);
    const absl::StatusOr<Bfloat16Histogram> back = Unpack(packed.view(), RangeOf(1.0390625f, 1.0390625f, count));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, histogram);
  }
  // At 4 bits and 1 byte wide: 16 bytes dense; 7 pairs take 1 + 14 bytes, 8 pairs 1 + 16.
  Bfloat16Histogram coarse(4);
  for (uint32_t i = 0; i < 7; ++i) coarse.AddKey(0x7f0 + i, 1);
  EXPECT_EQ(Packed(coarse).encoding, "\x11");
  coarse.AddKey(0x7ff, 1);
  EXPECT_EQ(Packed(coarse).encoding, "\x01");
  // At 7 bits and 2 bytes wide: 256 bytes dense; 84 pairs take 1 + 252 and 85 pairs 1 + 255.
  Bfloat16Histogram fine;
  for (uint32_t i = 0; i < 84; ++i) fine.AddKey(0x3f80 + i, 300);
  EXPECT_EQ(Packed(fine).encoding, "\x12");
  fine.AddKey(0x3fff, 1);
  EXPECT_EQ(Packed(fine).encoding, "\x02");
}

TEST(PackTest, ReusesItsMemoryAndIsCanonical) {
  PackedHistogram packed = Packed(Example());
  Bfloat16Histogram other;  // the same counts, made in another order
  for (uint32_t key = 0x40ff; key >= 0x4080; --key) other.AddKey(key, 3);
  other.AddKey(0x3fc0, 1);
  other.AddKey(0x3f80, 2);
  other.AddKey(0xc000, 1);
  const PackedHistogram fresh = Packed(other);
  Pack(other, &packed);
  EXPECT_EQ(packed.page, fresh.page);
  EXPECT_EQ(packed.encoding, fresh.encoding);
  EXPECT_EQ(packed.sparse_pairs, fresh.sparse_pairs);
  EXPECT_EQ(packed.counts, fresh.counts);
}

TEST(UnpackTest, RoundTripsAnything) {
  test::Rng rng(1);
  TensorObserver observer;
  for (int mantissa_bits = 4; mantissa_bits <= 7; ++mantissa_bits) {
    for (const size_t elements : {0, 1, 3, 50, 3000, 60000}) {
      ObserverConfig config;
      config.mantissa_bits = mantissa_bits;
      LayerStatistics statistics(config);
      const std::vector<float> tensor = test::RandomTensor(rng, elements);
      const uint64_t shape[] = {elements};
      const auto* bytes = reinterpret_cast<const uint8_t*>(tensor.data());
      ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, {bytes, 4 * elements}}, &statistics).ok());
      const ChannelStatistics& channel = statistics.channels()[0];
      const PackedHistogram packed = Packed(*channel.histogram);
      const absl::StatusOr<Bfloat16Histogram> back = Unpack(packed.view(), channel.range);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(*back, *channel.histogram);
      for (int coarser = 4; coarser <= mantissa_bits; ++coarser) {
        Bfloat16Histogram sum = channel.histogram->Coarsened(coarser);
        Bfloat16Histogram expected = sum;
        AddPacked(packed.view(), &sum);
        expected.Merge(*channel.histogram);
        EXPECT_EQ(sum, expected);
      }
    }
  }
}

TEST(ValidatePackedTest, AnyWidthThatHoldsTheCountsPasses) {
  for (const char width : {1, 2, 4, 8}) {
    PackedHistogram packed;
    packed.mantissa_bits = 4;
    packed.page = {127};
    packed.encoding = std::string(1, width);
    for (int i = 0; i < 16; ++i) packed.counts += '\x05' + std::string(width - 1, '\0');
    const absl::StatusOr<Bfloat16Histogram> histogram = Unpack(packed.view(), RangeOf(1, 1.9375f, 80));
    ASSERT_TRUE(histogram.ok()) << histogram.status();
    EXPECT_EQ(histogram->count(0x7f3), 5u);
  }
}

struct BrokenCase {
  const char* name;
  std::function<void(PackedHistogram*, Range*)> breakage;
  const char* message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class ValidateBrokenTest : public testing::TestWithParam<BrokenCase> {};

TEST_P(ValidateBrokenTest, IsRefusedWithTheReason) {
  PackedHistogram packed = Packed(Example());
  Range range = ExampleRange();
  ASSERT_TRUE(ValidatePacked(packed.view(), range).ok()) << ValidatePacked(packed.view(), range);
  GetParam().breakage(&packed, &range);
  const absl::Status status = ValidatePacked(packed.view(), range);
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_EQ(Unpack(packed.view(), range).status(), status);
}

// A page of 8-byte counters at 4 bits, in place of the example.
void Wide(PackedHistogram* packed, uint64_t first, uint64_t second) {
  *packed = {};
  packed->mantissa_bits = 4;
  packed->page = {127};
  packed->encoding = "\x18";
  packed->sparse_pairs = "\x01";
  for (int i = 0; i < 2; ++i) {
    const uint64_t count = i == 0 ? first : second;
    packed->counts += static_cast<char>(i);
    packed->counts.append(reinterpret_cast<const char*>(&count), 8);
  }
}

const BrokenCase kBroken[] = {
    {"TooFewMantissaBits", [](PackedHistogram* p, Range*) { p->mantissa_bits = 3; }, "mantissa_bits is 3"},
    {"TooManyMantissaBits", [](PackedHistogram* p, Range*) { p->mantissa_bits = 4294967295; }, "mantissa_bits is 42"},
    {"MissingEncoding", [](PackedHistogram* p, Range*) { p->encoding.pop_back(); }, "3 pages and 2 encodings"},
    {"ExcessEncoding", [](PackedHistogram* p, Range*) { p->encoding += '\1'; }, "3 pages and 4 encodings"},
    {"UnknownEncoding", [](PackedHistogram* p, Range*) { p->encoding[0] = 3; }, "no encoding 3"},
    {"ZeroWidth", [](PackedHistogram* p, Range*) { p->encoding[0] = 0; }, "no encoding 0"},
    {"SparseZeroWidth", [](PackedHistogram* p, Range*) { p->encoding[0] = 0x10; }, "no encoding 16"},
    {"UnknownHighBits", [](PackedHistogram* p, Range*) { p->encoding[0] = '\x91'; }, "no encoding 145"},
    {"PageBeyondTheLast", [](PackedHistogram* p, Range*) { p->page[2] = 512; }, "page 512"},
    {"HugePage", [](PackedHistogram* p, Range*) { p->page[2] = 4294967295; }, "page 4294967295"},
    {"PagesEqual", [](PackedHistogram* p, Range*) { p->page[1] = 127; }, "pages must increase"},
    {"PagesDecrease", [](PackedHistogram* p, Range*) { p->page[1] = 126; }, "pages must increase"},
    {"PageOfPositiveInfinity", [](PackedHistogram* p, Range*) { p->page[1] = 255; }, "NaN and infinities"},
    {"PageOfNegativeInfinity", [](PackedHistogram* p, Range*) { p->page[2] = 511; }, "NaN and infinities"},
    {"SparsePairsMissing", [](PackedHistogram* p, Range*) { p->sparse_pairs.pop_back(); }, "sparse_pairs has no entry"},
    {"SparsePairsTooMany", [](PackedHistogram* p, Range*) { p->sparse_pairs += '\0'; }, "has 3 entries for 2 sparse"},
    {"MorePairsThanCounters", [](PackedHistogram* p, Range*) { p->sparse_pairs[0] = '\x80'; }, "129 pairs"},
    {"CountsCut", [](PackedHistogram* p, Range*) { p->counts.pop_back(); }, "only 1 are left"},
    {"CountsCutInADensePage", [](PackedHistogram* p, Range*) { p->counts.resize(100); }, "only 96 are left"},
    {"CountsMissing", [](PackedHistogram* p, Range*) { p->counts.clear(); }, "only 0 are left"},
    {"CountsTooLong", [](PackedHistogram* p, Range*) { p->counts += '\0'; }, "1 bytes more"},
    {"SparseIndexesEqual", [](PackedHistogram* p, Range*) { p->counts[2] = 0; }, "indexes must increase"},
    {"SparseIndexOutside", [](PackedHistogram* p, Range*) { p->counts[2] = '\x80'; }, "be below 128"},
    {"ZeroSparsePage", [](PackedHistogram* p, Range*) { p->counts[133] = 0; }, "all counts are 0"},
    {"ZeroDensePage", [](PackedHistogram* p, Range*) { p->counts.replace(4, 128, 128, '\0'); }, "all counts are 0"},
    {"NegativeZeroKey", [](PackedHistogram* p, Range*) { p->page[2] = 256; }, "key 0x8000"},
    {"CountDiffers", [](PackedHistogram*, Range* r) { ++r->count; }, "they must be equal"},
    {"RangeWithoutCounts", [](PackedHistogram* p, Range*) { *p = {}, p->mantissa_bits = 7; }, "counts 0 values"},
    {"MinInAHigherBin", [](PackedHistogram*, Range* r) { r->min = -1.9921875f; }, "min -1.99219 lies outside"},
    {"MinInALowerBin", [](PackedHistogram*, Range* r) { r->min = -2.5f; }, "min -2.5 lies outside"},
    {"MaxInALowerBin", [](PackedHistogram*, Range* r) { r->max = 7.9375f; }, "max 7.9375 lies outside"},
    {"MaxInAHigherBin", [](PackedHistogram*, Range* r) { r->max = 8; }, "max 8 lies outside"},
    {"LosslessWithOtherNumbers", [](PackedHistogram*, Range* r) { r->max = 7.97f; }, "claims to be lossless"},
    {"MinIsNan", [](PackedHistogram*, Range* r) { r->min = std::numeric_limits<float>::quiet_NaN(); }, "be finite"},
    {"MaxIsInfinite", [](PackedHistogram*, Range* r) { r->max = std::numeric_limits<float>::infinity(); }, "be finite"},
    {"MinAboveMax",
     [](PackedHistogram* p, Range* r) {
       Wide(p, 4, 0);
       p->lossless = false;
       *r = RangeOf(1.01f, 1.005f, 4);
     },
     "in this order"},
    {"SumOverflowsInAPage", [](PackedHistogram* p, Range*) { Wide(p, kMostPacked, 1); }, "more than 2^64 - 1",
     absl::StatusCode::kOutOfRange},
    {"SumOverflowsAcrossPages",
     [](PackedHistogram* p, Range*) {
       Wide(p, kMostPacked, 0);
       p->page.push_back(128);
       p->encoding += '\x11';
       p->sparse_pairs += '\0';
       p->counts += std::string("\0\1", 2);
     },
     "more than 2^64 - 1", absl::StatusCode::kOutOfRange},
};

INSTANTIATE_TEST_SUITE_P(Rules, ValidateBrokenTest, testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ValidatePackedTest, EmptyHistogramHasNoLosslessFlag) {
  PackedHistogram packed = Packed(Bfloat16Histogram());
  packed.lossless = false;
  ASSERT_TRUE(ValidatePacked(packed.view(), Range{}).ok());
  Bfloat16Histogram histogram;
  AddPacked(packed.view(), &histogram);
  EXPECT_TRUE(histogram.lossless());
}

// Whatever bytes come, validation reads nothing outside them (the sanitizers watch), and what passes adds up.
TEST(ValidatePackedTest, RandomDamageNeverPassesAsSomethingElse) {
  test::Rng rng(2);
  const PackedHistogram good = Packed(Example());
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    PackedHistogram bad = good;
    const int changes = 1 + static_cast<int>(rng() % 3);
    for (int i = 0; i < changes; ++i) {
      std::string* const fields[] = {&bad.encoding, &bad.sparse_pairs, &bad.counts};
      std::string& field = *fields[rng() % 3];
      switch (rng() % 4) {
        case 0:
          field.resize(rng() % (field.size() + 2));
          break;
        case 1:
          bad.page[rng() % bad.page.size()] = static_cast<uint32_t>(rng() % 600);
          break;
        case 2:
          bad.mantissa_bits = 3 + static_cast<uint32_t>(rng() % 6);
          break;
        default:
          if (!field.empty()) field[rng() % field.size()] = static_cast<char>(rng());
      }
    }
    bad.counts.shrink_to_fit();
    const absl::StatusOr<Bfloat16Histogram> histogram = Unpack(bad.view(), ExampleRange());
    if (histogram.ok()) {
      EXPECT_EQ(histogram->total(), ExampleRange().count);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
}

}  // namespace
}  // namespace calib
