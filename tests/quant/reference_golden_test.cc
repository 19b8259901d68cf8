// The frameworks' own histograms and searches, fed with the golden layers step by step.

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/quant/entropy_oracle.h"
#include "tests/quant/methods_test_util.h"
#include "tests/quant/reference_test_util.h"

namespace calib {
namespace {

using test::Feed;
using test::GoldenLayer;
using test::GoldenLayers;
using test::Searched;

ReferenceHistogram Observed(const GoldenLayer& layer, ReferenceRule rule) {
  ReferenceHistogram histogram({rule});
  const size_t steps = layer.expected.at("batches").get<size_t>(), size = layer.values.size() / steps;
  for (size_t step = 0; step < steps; ++step) {
    EXPECT_EQ(Feed(absl::MakeConstSpan(layer.values).subspan(step * size, size), &histogram), absl::OkStatus());
  }
  return histogram;
}

struct Codes {
  double qmin, qmax;
};

Codes CodesOf(const std::string& type) {
  if (type == "qint8") return {-128, 127};
  if (type == "quint8") return {0, 255};
  EXPECT_EQ(type, "qint4");
  return {-8, 7};
}

// Second part of Observer/type/mode.
std::string TypeIn(const std::string& key) {
  const size_t begin = key.find('/') + 1;
  return key.substr(begin, key.find('/', begin) - begin);
}

TEST(ReferenceGoldenTest, MegengineHistogramObserver) {
  int compared = 0, failed_there = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const ReferenceHistogram histogram = Observed(layer, ReferenceRule::kMegengine);
    for (const auto& [key, expected] : layer.expected.at("megengine").items()) {
      if (key.rfind("HistogramObserver/", 0) != 0) continue;
      SCOPED_TRACE(layer.name + " " + key);
      const Codes codes = CodesOf(TypeIn(key));
      const ClipRange range = L2GreedyRange(Searched(histogram), static_cast<int64_t>(codes.qmax - codes.qmin + 1));
      if (expected.contains("error")) {
        // All values are equal: the range is that point and zero.
        EXPECT_EQ(range, (ClipRange{0, layer.values.front()}));
        ++failed_there;
        continue;
      }
      EXPECT_EQ(histogram.range().min, expected.at("min").get<float>());
      EXPECT_EQ(histogram.range().max, expected.at("max").get<float>());
      const bool symmetric = expected.at("zero_point").is_null();
      const double divisor = codes.qmax - codes.qmin;
      const double scale = std::max(
          symmetric ? std::max(-range.min, range.max) / (divisor / 2) : (range.max - range.min) / divisor, 1e-5);
      EXPECT_NEAR(scale, expected.at("scale").get<double>(), 1e-6 * scale);
      if (!symmetric) {
        EXPECT_EQ(codes.qmin - std::round(range.min / scale), expected.at("zero_point").get<double>());
      }
      ++compared;
    }
  }
  EXPECT_EQ(compared, 16 * 6);
  EXPECT_EQ(failed_there, 2 * 6);
}

TEST(ReferenceGoldenTest, PytorchHistogramObserver) {
  int compared = 0, failed_there = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const ReferenceHistogram histogram = Observed(layer, ReferenceRule::kPytorch);
    for (const auto& [key, expected] : layer.expected.at("torch").items()) {
      if (key.rfind("HistogramObserver/", 0) != 0) continue;
      SCOPED_TRACE(layer.name + " " + key);
      const Codes codes = CodesOf(TypeIn(key));
      const ClipRange range = L2GreedyRange(Searched(histogram), 256, GreedyArithmetic::kPytorch);
      if (expected.contains("error")) {
        // int() of what lies beyond 2^63.
        EXPECT_GE(range.min, histogram.range().min);
        EXPECT_LE(range.max, histogram.range().max);
        EXPECT_GT(range.max - range.min, 0.5 * (histogram.range().max - histogram.range().min));
        ++failed_there;
        continue;
      }
      EXPECT_EQ(histogram.range().min, expected.at("min").get<float>());
      EXPECT_EQ(histogram.range().max, expected.at("max").get<float>());
      const bool symmetric = key.find("/symmetric") != std::string::npos;
      const double floor = std::numeric_limits<float>::epsilon();
      const double scale =
          std::max(symmetric ? std::max(-range.min, range.max) / 127.5 : (range.max - range.min) / 255, floor);
      EXPECT_NEAR(scale, expected.at("scale").at(0).get<double>(), 1e-6 * scale);
      const double zero_point =
          symmetric ? (codes.qmin == 0 ? 128 : 0)
                    : std::clamp(codes.qmin - std::nearbyint(range.min / scale), codes.qmin, codes.qmax);
      EXPECT_EQ(zero_point, expected.at("zero_point").at(0).get<double>());
      ++compared;
    }
  }
  EXPECT_EQ(compared, 15 * 3);
  EXPECT_EQ(failed_there, 3);
}

TEST(ReferenceGoldenTest, MxnetEntropy) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const ReferenceHistogram histogram = Observed(layer, ReferenceRule::kMxnet);
    for (const auto& [key, expected] : layer.expected.at("mxnet").items()) {
      if (key.rfind("entropy/", 0) != 0) continue;
      SCOPED_TRACE(layer.name + " " + key);
      const bool halved = key != "entropy/int8" && histogram.range().min >= 0;
      const auto found = MxnetEntropy(Searched(histogram), halved ? 511 : 255);
      ASSERT_TRUE(found.ok()) << found.status();
      if (expected.contains("error")) {
        EXPECT_GT(found->threshold, 0);
        EXPECT_LE(found->threshold, histogram.grid().high);
        continue;
      }
      EXPECT_EQ(histogram.grid().bins, expected.at("bins").get<uint32_t>());
      EXPECT_EQ(histogram.grid().high, expected.at("range").get<double>());
      EXPECT_EQ(expected.at("min").get<double>() == 0, halved);
      const double bin = 2 * histogram.grid().high / histogram.grid().bins;
      EXPECT_NEAR(found->threshold, expected.at("max").get<double>(), 1e-3 * bin);
      EXPECT_NEAR(found->divergence, expected.at("divergence").get<double>(), 1e-3);
      ++compared;
    }
  }
  EXPECT_GE(compared, 15 * 3);
}

// The fast search finds what the definition says.
TEST(ReferenceGoldenTest, MxnetEntropyEqualsItsDefinition) {
  int compared = 0;
  for (const GoldenLayer& layer : GoldenLayers()) {
    const ReferenceHistogram histogram = Observed(layer, ReferenceRule::kMxnet);
    if (histogram.grid().bins > 8085) continue;  // the definition is quadratic
    const int quantized = histogram.range().min >= 0 ? 511 : 255;
    SCOPED_TRACE(layer.name);
    const auto divergences = test::MxnetDivergences(histogram.counts(), quantized);
    const auto found = MxnetEntropy(Searched(histogram), quantized);
    ASSERT_TRUE(found.ok()) << found.status();
    const double width = 2 * histogram.grid().high / histogram.grid().bins;
    const double half = std::round(found->threshold / width - 0.5);
    const double expected = divergences.at(static_cast<size_t>(half) - static_cast<size_t>(quantized / 2));
    const double least = *std::min_element(divergences.begin(), divergences.end());
    if (std::isinf(least)) {
      EXPECT_EQ(found->divergence, least);
    } else {
      EXPECT_NEAR(found->divergence, expected, 1e-6 * expected + 1e-11);
      EXPECT_LE(expected, least * (1 + 5e-4) + 3e-5);
    }
    ++compared;
  }
  EXPECT_GE(compared, 6);
}

}  // namespace
}  // namespace calib
