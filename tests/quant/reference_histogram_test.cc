#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/quant/reference_test_util.h"

namespace calib {
namespace {

using test::Feed;
using test::RangeOf;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreatest = std::numeric_limits<float>::max();
constexpr float kLeast = std::numeric_limits<float>::denorm_min();
constexpr ReferenceRule kRules[] = {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent,
                                    ReferenceRule::kMxnet};

double Mass(const ReferenceHistogram& histogram) {
  return std::accumulate(histogram.counts().begin(), histogram.counts().end(), 0.0);
}

std::vector<float> Normal(size_t size, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(size);
  for (float& value : values) value = normal(random);
  return values;
}

ReferenceHistogram Fed(const ReferenceOptions& options, const std::vector<std::vector<float>>& steps) {
  ReferenceHistogram histogram(options);
  for (const auto& step : steps) EXPECT_EQ(Feed(step, &histogram), absl::OkStatus());
  return histogram;
}

TEST(ReferenceHistogramTest, RulesHaveNames) {
  for (const ReferenceRule rule : kRules) EXPECT_EQ(*ParseReferenceRule(ReferenceRuleName(rule)), rule);
  EXPECT_EQ(ParseReferenceRule("caffe2").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ReferenceHistogramTest, OptionsAreChecked) {
  const auto ok = [](ReferenceRule rule, uint32_t bins, uint32_t max_bins) {
    return CheckReferenceOptions({rule, bins, max_bins}).ok();
  };
  for (const ReferenceRule rule : kRules) EXPECT_TRUE(ok(rule, 0, 0));
  EXPECT_TRUE(ok(ReferenceRule::kMegengine, 2, 2));
  EXPECT_TRUE(ok(ReferenceRule::kMegengine, 65536, 1 << 26));
  EXPECT_FALSE(ok(ReferenceRule::kMegengine, 1, 0));
  EXPECT_FALSE(ok(ReferenceRule::kMegengine, 65537, 0));
  EXPECT_FALSE(ok(ReferenceRule::kMegengine, 0, 2047));
  EXPECT_FALSE(ok(ReferenceRule::kMegengine, 0, (1 << 26) + 1));
  EXPECT_FALSE(ok(ReferenceRule::kMxnet, 8000, 0));
}

// Widths stay: 5 bins of 0.4 to 1; 1.5 needs two more on each side.
TEST(ReferenceHistogramTest, MxnetAddsWholeBins) {
  const auto histogram = Fed({ReferenceRule::kMxnet, 5}, {{-1, -0.1f, 0.1f, 1}, {1.5f, 0.5f}});
  EXPECT_EQ(histogram.grid().bins, 9u);
  EXPECT_NEAR(histogram.grid().high, 1.8, 1e-15);
  EXPECT_EQ(histogram.grid().low, -histogram.grid().high);
  EXPECT_EQ(histogram.counts(), (std::vector<double>{0, 0, 1, 0, 2, 1, 1, 0, 1}));
  EXPECT_EQ(histogram.range().min, -1);
  EXPECT_EQ(histogram.range().max, 1.5f);
}

// PyTorch issue 83672: histc gets int(-1.9) and int(1.9), and drops what lies outside.
TEST(ReferenceHistogramTest, PytorchCutsItsRangeToIntegers) {
  std::vector<float> values;
  for (int i = 0; i <= 1000; ++i) values.push_back(static_cast<float>(-1.9 + 3.8 * i / 1000));
  const auto histogram = Fed({ReferenceRule::kPytorch}, {values});
  EXPECT_EQ(Mass(histogram), 527);
  EXPECT_EQ(histogram.range().min, -1.9f);
  EXPECT_EQ(histogram.range().max, 1.9f);
  EXPECT_EQ(Mass(Fed({ReferenceRule::kPytorchCurrent}, {values})), 1001);
}

// Twice the range in a MegEngine histogram: old bins are merged in pairs, the rest is beside.
TEST(ReferenceHistogramTest, MegengineResamples) {
  const auto histogram = Fed({ReferenceRule::kMegengine, 4}, {{0, 1, 2, 3, 4, 4}, {-2, 6}});
  EXPECT_EQ(histogram.range().min, -2);
  EXPECT_EQ(histogram.range().max, 6);
  EXPECT_EQ(histogram.counts(), (std::vector<double>{1, 2, 4, 1}));
}

TEST(ReferenceHistogramTest, StepsWithoutFiniteValuesAreOnlyCounted) {
  for (const ReferenceRule rule : kRules) {
    const std::vector<float> values = Normal(100, 1, 1);
    std::vector<float> with_others = values;
    with_others.insert(with_others.begin() + 50, {kNan, kInfinity, -kInfinity, -kInfinity});
    const auto plain = Fed({rule}, {values, values});
    const auto mixed = Fed({rule}, {{}, {kNan, kInfinity}, with_others, {}, values, {-kInfinity}});
    EXPECT_EQ(mixed.grid(), plain.grid());
    EXPECT_EQ(mixed.counts(), plain.counts());
    EXPECT_EQ(mixed.steps(), 2u);
    EXPECT_EQ(mixed.range().count, 200u);
    EXPECT_EQ(mixed.range().nan, 2u);
    EXPECT_EQ(mixed.range().infinities(), 5u);
  }
}

TEST(ReferenceHistogramTest, ConstantsKeepTheirPlace) {
  for (const ReferenceRule rule : kRules) {
    for (const float value : {0.0f, 3.25f, -1e-40f, 1e30f, -kGreatest}) {
      SCOPED_TRACE(std::string(ReferenceRuleName(rule)) + " " + std::to_string(value));
      const auto constant = Fed({rule}, {{value, value}, {value}, {value, value}});
      EXPECT_EQ(constant.range().min, value);
      EXPECT_EQ(constant.range().max, value);
      // PyTorch 1.13 begins anew while all values are equal.
      EXPECT_EQ(Mass(constant), rule == ReferenceRule::kPytorch ? 2 : 5);
      if (std::abs(value) > 10) continue;
      // Beside values in each half of the new range. (mxnet can't grow from a width of 1e-40.)
      ReferenceHistogram grown = constant;
      const absl::Status status = Feed(std::vector<float>{-4, 4, 4}, &grown);
      if (rule == ReferenceRule::kMxnet && value == -1e-40f) {
        EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
        EXPECT_EQ(grown, constant);
        continue;
      }
      EXPECT_EQ(status, absl::OkStatus());
      EXPECT_EQ(Mass(grown), rule == ReferenceRule::kPytorch ? 3 : 8);
      EXPECT_LE(grown.range().min, -4);
      EXPECT_GE(grown.range().max, 4);
      if (rule == ReferenceRule::kPytorch) continue;
      const double width = (grown.grid().high - grown.grid().low) / grown.grid().bins;
      const double bin = std::min(std::floor((value - grown.grid().low) / width), grown.grid().bins - 1.0);
      // Or in the bin below, when it is on the edge: mxnet's last bin was closed, and stays where it is.
      EXPECT_EQ(std::max(grown.counts()[static_cast<size_t>(bin)], grown.counts()[static_cast<size_t>(bin) - 1]), 5);
    }
  }
}

TEST(ReferenceHistogramTest, GrowthIsBounded) {
  const std::vector<float> small = Normal(1000, 1e-3f, 2), large = {-1e9f, 1e9f};
  for (const ReferenceRule rule : kRules) {
    ReferenceHistogram histogram = Fed({rule}, {small});
    const ReferenceHistogram before = histogram;
    const auto grid = histogram.NextGrid(RangeOf(large));
    if (rule == ReferenceRule::kPytorchCurrent) {  // its histogram never grows
      EXPECT_EQ(Feed(large, &histogram), absl::OkStatus());
      EXPECT_EQ(Mass(histogram), 1002);
      EXPECT_EQ(histogram.counts().size(), 2048u);
      continue;
    }
    EXPECT_EQ(grid.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(grid.status().message().find("max_bins"), absl::string_view::npos);
    EXPECT_EQ(histogram.Fold(RangeOf(large), {-1e9, 1e9, 2048}, std::vector<uint64_t>(2048)).code(),
              absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(histogram, before);
    EXPECT_EQ(Feed(small, &histogram), absl::OkStatus());
  }
}

TEST(ReferenceHistogramTest, WithoutGrowthMaxBinsDoesNotMatter) {
  for (const ReferenceRule rule : kRules) {
    const uint32_t bins = rule == ReferenceRule::kMxnet ? 8001 : 2048;
    const std::vector<float> values = Normal(1000, 1, 3);
    EXPECT_EQ(Mass(Fed({rule, bins, bins}, {values, values})), 2 * Mass(Fed({rule}, {values})));
  }
}

TEST(ReferenceHistogramTest, ExtremeFloatsStayFinite) {
  const std::vector<std::vector<std::vector<float>>> histories = {
      {{-kGreatest, 0, kGreatest}, {-kGreatest, 1, kGreatest}, {5}},
      {{-1e38f, 1e38f}, {-kGreatest, kGreatest}, {kGreatest}},
      {{kGreatest}, {kGreatest}, {-kGreatest}},
      {{kLeast, 2 * kLeast, 3 * kLeast}, {0, 3 * kLeast}, {5 * kLeast}},
      {{0, kLeast}, {0, kLeast}, {-kLeast}},
      {{1, std::nextafter(1.0f, 2.0f)}, {1}, {0.999999f}},
      {{-kGreatest, kGreatest}, {kLeast}},
  };
  for (const ReferenceRule rule : kRules) {
    for (const auto& steps : histories) {
      for (const uint32_t bins : {101u, 2047u}) {
        ReferenceHistogram histogram({rule, bins});
        uint64_t values = 0;
        for (const auto& step : steps) {
          const absl::Status status = Feed(step, &histogram);
          if (status.ok()) values += step.size();
          EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kResourceExhausted) << status;
        }
        EXPECT_EQ(histogram.range().count, values);
        EXPECT_TRUE(std::isfinite(histogram.range().min) && std::isfinite(histogram.range().max));
        EXPECT_LE(Mass(histogram), static_cast<double>(values) * (1 + 1e-6));
        if (rule != ReferenceRule::kPytorch) {
          EXPECT_NEAR(Mass(histogram), static_cast<double>(values), 1e-5 * static_cast<double>(values));
        }
        const auto restored =
            ReferenceHistogram::Restore(histogram.options(), histogram.grid(), histogram.range(), histogram.steps(),
                                        {histogram.counts().begin(), histogram.counts().end()});
        EXPECT_TRUE(restored.ok()) << restored.status();
        for (const int64_t levels : {2, 256, 65536}) {
          const ClipRange range = L2GreedyRange(test::Searched(histogram), levels, GreedyArithmetic::kPytorch);
          EXPECT_TRUE(std::isfinite(range.min) && range.min <= 0 && range.max >= 0 && std::isfinite(range.max));
        }
      }
    }
  }
}

TEST(ReferenceHistogramTest, ResamplingKeepsTheNumberOfValues) {
  std::mt19937 random(4);
  for (const ReferenceRule rule : {ReferenceRule::kMegengine, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      std::vector<std::vector<float>> steps;
      for (uint32_t i = 0; i < 6; ++i) {
        steps.push_back(Normal(500, std::uniform_real_distribution<float>(0.5, 4)(random), 10 * seed + i));
      }
      EXPECT_NEAR(Mass(Fed({rule}, steps)), 3000, 0.01);
    }
  }
}

TEST(ReferenceHistogramTest, FoldRefusesWhatWasCountedOtherwise) {
  const std::vector<float> values = Normal(100, 1, 5);
  for (const ReferenceRule rule : kRules) {
    ReferenceHistogram histogram = Fed({rule}, {values});
    const ReferenceHistogram before = histogram;
    const Range step = RangeOf(values);
    const ReferenceGrid grid = *histogram.NextGrid(step);
    const auto refused = [&](const Range& range, const ReferenceGrid& on, const std::vector<uint64_t>& counts) {
      return histogram.Fold(range, on, counts).code();
    };
    std::vector<uint64_t> counts(grid.bins);
    EXPECT_EQ(refused(step, {grid.low, grid.high + 1, grid.bins}, counts), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(refused(step, {}, {}), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(refused({}, grid, counts), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(refused(step, grid, std::vector<uint64_t>(grid.bins - 1)), absl::StatusCode::kInvalidArgument);
    counts[0] = 101;
    EXPECT_EQ(refused(step, grid, counts), absl::StatusCode::kInvalidArgument);
    counts = std::vector<uint64_t>(grid.bins, std::numeric_limits<uint64_t>::max());
    EXPECT_EQ(refused(step, grid, counts), absl::StatusCode::kInvalidArgument);
    Range many = step;
    many.count = std::numeric_limits<uint64_t>::max();
    EXPECT_EQ(refused(many, grid, std::vector<uint64_t>(grid.bins)), absl::StatusCode::kOutOfRange);
    Range crossed = step;
    std::swap(crossed.min, crossed.max);
    EXPECT_EQ(refused(crossed, grid, std::vector<uint64_t>(grid.bins)), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(histogram, before);
  }
}

TEST(ReferenceHistogramTest, Restores) {
  for (const ReferenceRule rule : kRules) {
    const auto histogram = Fed({rule}, {Normal(1000, 1, 6), {kNan}, Normal(1000, 1.5, 7)});
    const std::vector<double> counts(histogram.counts().begin(), histogram.counts().end());
    const auto restore = [&](const ReferenceGrid& grid, const Range& range, uint64_t steps,
                             const std::vector<double>& of) {
      return ReferenceHistogram::Restore({rule}, grid, range, steps, of);
    };
    const auto same = restore(histogram.grid(), histogram.range(), histogram.steps(), counts);
    ASSERT_TRUE(same.ok()) << same.status();
    EXPECT_EQ(*same, histogram);
    EXPECT_TRUE(restore({}, {}, 0, {}).ok());

    const ReferenceGrid& grid = histogram.grid();
    const Range& range = histogram.range();
    std::vector<double> bad = counts;
    bad[3] = kNan;
    EXPECT_FALSE(restore(grid, range, 2, bad).ok());
    bad[3] = -100;
    EXPECT_FALSE(restore(grid, range, 2, bad).ok());
    bad[3] = 1e6;
    EXPECT_FALSE(restore(grid, range, 2, bad).ok());
    EXPECT_FALSE(restore(grid, range, 0, counts).ok());
    EXPECT_FALSE(restore(grid, range, 5000, counts).ok());
    EXPECT_FALSE(restore(grid, {}, 0, {}).ok());
    EXPECT_FALSE(restore(grid, range, 2, {1, 2}).ok());
    EXPECT_FALSE(restore({grid.low, grid.high * 2, grid.bins}, range, 2, counts).ok());
    EXPECT_FALSE(restore({grid.low, kNan, grid.bins}, range, 2, counts).ok());
    Range wide = range;
    wide.max = 1e6f;
    EXPECT_FALSE(restore(grid, wide, 2, counts).ok());
  }
}

// Whatever a store or the wire says, a state is refused or goes on.
TEST(ReferenceHistogramTest, RestoredStatesGoOn) {
  const float ends[] = {0, kLeast, 1e-38f, 1, 3.25f, 1e20f, 1e38f, kGreatest};
  const double highs[] = {0.5, 1e-320, 1e-30, 1, 3.25, 1e38, kGreatest, 1e39, 1e308, kNan};
  std::mt19937 random(8);
  const auto end = [&] { return ends[random() % std::size(ends)] * (random() % 2 == 0 ? 1.0f : -1.0f); };
  int restored = 0;
  for (int i = 0; i < 20000; ++i) {
    const ReferenceOptions options = {kRules[random() % 4], 101, random() % 2 == 0 ? 101u : 0u};
    Range range = RangeOf(std::vector<float>{end(), end(), end()});
    if (random() % 10 == 0) range.max = std::array{kNan, kInfinity, -kInfinity}[random() % 3];
    ReferenceGrid grid = {range.min, range.max, 101};
    if (options.rule == ReferenceRule::kMxnet || random() % 10 == 0) {
      grid.high = highs[random() % std::size(highs)];
      grid.low = -grid.high;
    }
    auto histogram = ReferenceHistogram::Restore(options, grid, range, 1, std::vector<double>(101, 0.0));
    if (!histogram.ok()) continue;
    ++restored;
    for (int step = 0; step < 3; ++step) {
      const absl::Status status = Feed(std::vector<float>{end(), end()}, &*histogram);
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kResourceExhausted) << status;
    }
    EXPECT_TRUE(std::isfinite(Mass(*histogram)));
  }
  EXPECT_GT(restored, 5000);
}

TEST(ReferenceHistogramTest, CountsEveryElementType) {
  const ReferenceGrid grid = {-2, 2, 8};
  const std::vector<uint16_t> bfloat16 = {0x3f80, 0xbf80, 0x4000, 0x4040, 0x7fc0};  // 1, -1, 2, 3, NaN
  const std::vector<uint16_t> float16 = {0x3c00, 0xbc00, 0x4000, 0x4200, 0x7e00};
  const std::vector<float> float32 = {1, -1, 2, 3, kNan};
  for (const ReferenceRule rule : kRules) {
    std::vector<uint64_t> counts;
    EXPECT_EQ(CountOnGrid(rule, grid, test::View(float32), &counts), absl::OkStatus());
    EXPECT_EQ(counts, (std::vector<uint64_t>{0, 0, 1, 0, 0, 0, 1, 1}));
    for (const auto& [type, bits] : {std::pair(DataType::kBfloat16, bfloat16), {DataType::kFloat16, float16}}) {
      TensorView view;
      view.type = type;
      view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bits.data()), 10);
      std::vector<uint64_t> same;
      EXPECT_EQ(CountOnGrid(rule, grid, view, &same), absl::OkStatus());
      EXPECT_EQ(same, counts);
      view.data.remove_suffix(1);
      EXPECT_EQ(CountOnGrid(rule, grid, view, &same).code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(ReferenceHistogramTest, CountsOnSensibleGridsOnly) {
  for (const ReferenceRule rule : kRules) {
    for (const ReferenceGrid& grid :
         {ReferenceGrid{1, -1, 4}, {kNan, 1, 4}, {-1, kInfinity, 4}, {-1.7e308, 1e308, 4}}) {
      std::vector<uint64_t> counts;
      EXPECT_EQ(CountOnGrid(rule, grid, test::View(std::vector<float>{0}), &counts).code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(ReferenceHistogramTest, TellsItsMemory) {
  EXPECT_LT(ReferenceHistogram({ReferenceRule::kMegengine}).MemoryBytes(), 256u);
  const size_t bytes = Fed({ReferenceRule::kMegengine}, {{1, 2}}).MemoryBytes();
  EXPECT_GE(bytes, 2048 * sizeof(double));
  EXPECT_LT(bytes, 2048 * sizeof(double) + 1024);
}

}  // namespace
}  // namespace calib
