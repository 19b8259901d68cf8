#include "quant/searches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "tests/quant/entropy_oracle.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

// Counts of values of some shape on bins from -1 to 1, or 0 to 1.
std::vector<double> RandomCounts(size_t bins, int values, double spread, bool one_sided, std::mt19937* random) {
  std::vector<double> counts(bins);
  std::student_t_distribution<double> heavy(3);
  for (int i = 0; i < values; ++i) {
    double x = heavy(*random) * spread;
    if (one_sided) x = std::abs(x) * 2 - 1;
    const double at = std::clamp((x + 1) / 2, 0.0, 1.0) * static_cast<double>(bins);
    ++counts[std::min(static_cast<size_t>(at), bins - 1)];
  }
  return counts;
}

// Bin by bin, as numerics.md 3.5 has it.
double GreedyErrorByDefinition(const std::vector<double>& counts, size_t first, size_t last, double levels) {
  const double width = static_cast<double>(last - first + 1) / levels;
  const auto part = [](double u, double v) { return (v * v * v - u * u * u) / 3; };
  double error = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double b0 = static_cast<double>(i) - static_cast<double>(first), b1 = b0 + 1;
    const double c0 = std::clamp(std::floor(b0 / width), 0.0, levels - 1);
    const double c1 = std::clamp(std::floor(b1 / width), 0.0, levels - 1);
    error += counts[i] * (part(b0 - (c0 + 0.5) * width, width / 2) + (c1 - c0 - 1) * part(-width / 2, width / 2) +
                          part(-width / 2, b1 - (c1 + 0.5) * width));
  }
  return error;
}

ClipRange GreedyByDefinition(const EqualWidthHistogram& histogram, int64_t levels) {
  const std::vector<double> counts(histogram.counts.begin(), histogram.counts.end());
  std::vector<float> sums(counts.size());
  std::partial_sum(counts.begin(), counts.end(), sums.begin(), [](float a, double b) { return a + float(b); });
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double alpha = 0, beta = 1, best = kUnbounded;
  size_t first = 0, last = counts.size() - 1;
  while (alpha < beta) {
    size_t lower = first, upper = last;
    while (lower < last && sums[lower] < (alpha + 1e-5) * total) ++lower;
    while (upper > first && sums[upper] > (beta - 1e-5) * total) --upper;
    size_t next_first = first, next_last = last;
    if (lower - first > last - upper) {
      next_first = lower;
      alpha += 1e-5;
    } else {
      next_last = upper;
      beta -= 1e-5;
    }
    if (next_first == first && next_last == last) continue;
    const double error = GreedyErrorByDefinition(counts, next_first, next_last, static_cast<double>(levels));
    if (error > best) break;
    best = error;
    first = next_first;
    last = next_last;
  }
  const double width = (histogram.high - histogram.low) / static_cast<double>(counts.size());
  return {std::min(histogram.low + width * static_cast<double>(first), 0.0),
          std::max(histogram.low + width * static_cast<double>(last + 1), 0.0)};
}

TEST(L2GreedyTest, EqualsItsDefinition) {
  std::mt19937 random(1);
  for (int i = 0; i < 60; ++i) {
    const size_t bins = std::array<size_t, 4>{64, 100, 512, 2048}[static_cast<size_t>(i % 4)];
    const auto counts = RandomCounts(bins, 20000, 0.02 + 0.02 * (i % 7), i % 3 == 0, &random);
    const EqualWidthHistogram histogram = {-1, 1, counts};
    for (const int64_t levels : {2, 15, 16, 255, 256, 4096}) {
      const ClipRange found = L2GreedyRange(histogram, levels), expected = GreedyByDefinition(histogram, levels);
      EXPECT_NEAR(found.min, expected.min, 1e-6) << bins << " " << levels;
      EXPECT_NEAR(found.max, expected.max, 1e-6) << bins << " " << levels;
    }
  }
}

TEST(L2GreedyTest, DegenerateHistograms) {
  const std::vector<double> counts = {0, 5, 0, 0};
  EXPECT_EQ(L2GreedyRange({3.25, 3.25, counts}, 256), (ClipRange{0, 3.25}));
  EXPECT_EQ(L2GreedyRange({-2, -2, counts}, 256), (ClipRange{-2, 0}));
  EXPECT_EQ(L2GreedyRange({0, 0, counts}, 256), (ClipRange{0, 0}));
  // All in one bin, and the first candidate, which no error stands against, drops it: so the references do.
  EXPECT_EQ(L2GreedyRange({-2, 2, counts}, 256), (ClipRange{-2, 0}));
  EXPECT_EQ(GreedyByDefinition({-2, 2, counts}, 256), (ClipRange{-2, 0}));
  const double greatest = std::numeric_limits<float>::max();
  const ClipRange huge = L2GreedyRange({-greatest, greatest, std::vector<double>(16, 1)}, 256);
  EXPECT_TRUE(std::isfinite(huge.min) && std::isfinite(huge.max) && huge.min < 0 && huge.max > 0);
}

// Index of the candidate that a threshold stands for.
size_t MxnetCandidate(double threshold, size_t bins, int quantized_bins) {
  return static_cast<size_t>(std::lround(threshold * static_cast<double>(bins) / 2 - 0.5)) -
         static_cast<size_t>(quantized_bins / 2);
}

void ExpectMxnet(const std::vector<double>& counts, int quantized_bins) {
  const auto divergences = test::MxnetDivergences(counts, quantized_bins);
  const double least = *std::min_element(divergences.begin(), divergences.end());
  const auto found = MxnetEntropy({-1, 1, counts}, quantized_bins);
  ASSERT_TRUE(found.ok()) << found.status();
  const size_t candidate = MxnetCandidate(found->threshold, counts.size(), quantized_bins);
  ASSERT_LT(candidate, divergences.size());
  if (std::isinf(least)) {
    EXPECT_EQ(found->divergence, kUnbounded);
    EXPECT_EQ(candidate, 0u);
    return;
  }
  EXPECT_NEAR(found->divergence, divergences[candidate], 1e-6 * divergences[candidate] + 1e-11);
  EXPECT_LE(divergences[candidate], least * (1 + 5e-4) + 3e-5);
}

TEST(MxnetEntropyTest, EqualsItsDefinition) {
  std::mt19937 random(2);
  for (int i = 0; i < 120; ++i) {
    const int quantized = std::array{255, 511, 31, 3}[static_cast<size_t>(i % 4)];
    const size_t bins = std::array<size_t, 3>{511, 801, 2001}[static_cast<size_t>(i % 3)];
    const int values = std::array{1, 5, 40, 500, 100000}[static_cast<size_t>(i % 5)];
    SCOPED_TRACE(testing::Message() << bins << " bins, " << quantized << " quantized, " << values << " values");
    ExpectMxnet(RandomCounts(bins, values, 0.05 + 0.05 * (i % 6), i % 2 == 0, &random), quantized);
  }
}

// So many empty bins that the smoothing takes nearly all of a single count, or more than it.
TEST(MxnetEntropyTest, SparseHistograms) {
  for (const double count : {1.0, 2.0, 1000.0}) {
    std::vector<double> counts(3001);
    counts[1500] = counts[1800] = count;
    ExpectMxnet(counts, 255);
    counts[3000] = 1;
    ExpectMxnet(counts, 255);
  }
  // Beyond ten thousand empty bins there is no divergence.
  std::vector<double> counts(10501);
  counts[5250] = 1;
  ExpectMxnet(counts, 10255);
}

TEST(MxnetEntropyTest, TiesGoToTheSmallest) {
  std::vector<double> counts(8001);
  counts[4000] = 1000;  // P is Q for all candidates
  auto found = MxnetEntropy({-1, 1, counts}, 255);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->divergence, 0);
  EXPECT_EQ(MxnetCandidate(found->threshold, 8001, 255), 0u);
  found = MxnetEntropy({-1, 1, std::vector<double>(8001)}, 255);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->divergence, kUnbounded);
  EXPECT_EQ(MxnetCandidate(found->threshold, 8001, 255), 0u);
}

// Counts that are not whole are rounded by their running sums: halves in pairs are ones in every other bin.
TEST(MxnetEntropyTest, CountsAreMadeWhole) {
  std::mt19937 random(3);
  const auto whole = RandomCounts(801, 20000, 0.2, false, &random);
  std::vector<double> shaken = whole;
  for (size_t i = 0; i + 1 < shaken.size(); i += 2) {
    shaken[i] += 0.25;
    shaken[i + 1] -= shaken[i + 1] >= 0.25 ? 0.25 : 0;
    if (whole[i + 1] == 0) shaken[i] -= 0.25;
  }
  const auto a = MxnetEntropy({-1, 1, whole}, 255), b = MxnetEntropy({-1, 1, shaken}, 255);
  EXPECT_EQ(a->threshold, b->threshold);
  EXPECT_EQ(a->divergence, b->divergence);
}

TEST(MxnetEntropyTest, RefusesWhatItCannotSearch) {
  const auto code = [](size_t bins, int quantized, double count) {
    return MxnetEntropy({-1, 1, std::vector<double>(bins, count)}, quantized).status().code();
  };
  EXPECT_EQ(code(255, 255, 1), absl::StatusCode::kOk);
  EXPECT_EQ(code(253, 255, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(8000, 255, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(8001, 2, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(8001, 255, -1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(8001, 255, NAN), absl::StatusCode::kInvalidArgument);
}

TEST(TensorrtEntropyTest, EqualsItsDefinition) {
  std::mt19937 random(4);
  for (int i = 0; i < 40; ++i) {
    const int levels = i % 2 == 0 ? 128 : 256;
    const size_t bins = std::array<size_t, 3>{256, 600, 1500}[static_cast<size_t>(i % 3)];
    const int values = std::array{3, 100, 3000, 100000}[static_cast<size_t>(i % 4)];
    auto counts = RandomCounts(bins, values, 0.05 + 0.05 * (i % 6), true, &random);
    if (i % 5 == 0) std::transform(counts.begin(), counts.end(), counts.begin(), [](double c) { return c * 0.3; });
    const auto divergences = test::TensorrtDivergences(counts, levels);
    const double least = *std::min_element(divergences.begin(), divergences.end());
    size_t expected = divergences.size() - 1;
    while (std::isfinite(least) && divergences[expected] > least + 1e-12) --expected;
    const auto found = TensorrtEntropy({0, 2, counts}, levels);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_NEAR(found->threshold, 2.0 * static_cast<double>(expected + 128) / static_cast<double>(bins), 1e-12);
    if (std::isfinite(least)) {
      EXPECT_NEAR(found->divergence, least, 1e-9 * least + 1e-12);
    } else {
      EXPECT_EQ(found->divergence, least);
    }
  }
}

TEST(TensorrtEntropyTest, TiesGoToTheLargest) {
  std::vector<double> counts(2048);
  const auto empty = TensorrtEntropy({0, 2, counts}, 128);
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->threshold, 2);
  EXPECT_EQ(empty->divergence, kUnbounded);
  counts[1] = 7;  // bin 0 follows
  const auto found = TensorrtEntropy({0, 2, counts}, 128);
  EXPECT_EQ(found->threshold, 2);
  EXPECT_EQ(found->divergence, 0);
}

TEST(TensorrtEntropyTest, RefusesWhatItCannotSearch) {
  const auto code = [](double low, size_t bins, int levels, double count) {
    return TensorrtEntropy({low, 1, std::vector<double>(bins, count)}, levels).status().code();
  };
  EXPECT_EQ(code(0, 256, 256, 1), absl::StatusCode::kOk);
  EXPECT_EQ(code(0, 255, 256, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 100, 64, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(-1, 2048, 128, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 2048, 100, 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 2048, 128, -1), absl::StatusCode::kInvalidArgument);
}

TEST(FillEqualWidthTest, PointMassesAreWhereTheyAre) {
  const std::vector<float> values = {-3, -1, 0, 0, 0.5, 1, 1, 2, 4};  // all bfloat16: lossless
  const LayerStatistics statistics = test::ObserveValues(values);
  const BinModel model(statistics.channels().front());
  std::vector<double> counts(4, 99.0);
  FillEqualWidth(model, -2, 2, absl::MakeSpan(counts));
  EXPECT_EQ(counts, (std::vector<double>{1, 1, 3, 4}));
}

TEST(FillEqualWidthTest, DensityIsSpread) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0.3f, 1);
  std::vector<float> values(20000);
  for (float& value : values) value = normal(random);
  std::sort(values.begin(), values.end());
  const LayerStatistics statistics = test::ObserveValues(values);
  const BinModel model(statistics.channels().front());
  for (const size_t bins : {1u, 10u, 501u, 8001u}) {
    for (const double high : {0.01, 2.0, 5.0, 1e6}) {
      std::vector<double> counts(bins);
      FillEqualWidth(model, -high, high, absl::MakeSpan(counts));
      EXPECT_NEAR(std::accumulate(counts.begin(), counts.end(), 0.0), 20000, 1e-6);
      // Up to each edge as many as the model has: its bins are at most 2^-7 wide, relatively.
      double below = 0;
      for (size_t i = 0; i + 1 < bins; ++i) {
        EXPECT_GE(counts[i], 0);
        below += counts[i];
        const double edge = -high + 2 * high * static_cast<double>(i + 1) / static_cast<double>(bins);
        const double expected = edge >= 0 ? 20000 - model.positive().TailMass(edge) : model.negative().TailMass(-edge);
        if (edge == 0) continue;
        EXPECT_NEAR(below, expected, 1e-6) << bins << " " << high << " " << edge;
      }
    }
  }
}

TEST(FillEqualWidthTest, AConstantIsOnePoint) {
  const LayerStatistics statistics = test::ObserveValues(std::vector<float>(1000, 0.1f));
  const BinModel model(statistics.channels().front());
  std::vector<double> counts(11);
  FillEqualWidth(model, -0.1f, 0.1f, absl::MakeSpan(counts));
  EXPECT_EQ(counts.back(), 1000);
}

}  // namespace
}  // namespace calib
