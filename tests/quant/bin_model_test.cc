#include "quant/bin_model.h"

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "tests/quant/methods_test_util.h"
#include "tests/support/random_tensors.h"

namespace calib {
namespace {

using test::ObserveValues;

// The model's distribution as a list of intervals and points, made from the histogram alone, and everything evaluated
// by going through all of it in long double.
class Oracle {
 public:
  explicit Oracle(const ChannelStatistics& statistics) {
    const Bfloat16Histogram& histogram = *statistics.histogram;
    const int bits = histogram.mantissa_bits();
    for (uint32_t key = 0; key < 512u << bits; ++key) {
      const uint64_t count = histogram.count(key);
      if (count == 0) continue;
      const double first = BinBegin(key, bits), last = BinEnd(key, bits);
      if (histogram.lossless() || first == 0) {
        parts_.push_back({first, first, static_cast<long double>(count)});
        continue;
      }
      long double mass = count;
      double low = std::min(first, last), high = std::max(first, last);
      const double least = statistics.range.min, greatest = statistics.range.max;
      if (least >= low && least <= high) {
        low = least;
        parts_.push_back({least, least, 1});
        --mass;
      }
      if (greatest >= low && greatest <= high && mass > 0) {
        high = greatest;
        parts_.push_back({greatest, greatest, 1});
        --mass;
      }
      if (mass > 0) parts_.push_back({low, high, mass});
    }
  }

  // Sum of squared error over the levels [least, greatest] x step.
  long double SquaredError(long double step, int64_t least, int64_t greatest) const {
    long double sum = 0;
    for (const Part& part : parts_) {
      if (part.low == part.high) {
        const long double error = Distance(part.low, step, least, greatest);
        sum += part.mass * error * error;
        continue;
      }
      // Cut at the middles between levels; Simpson's rule is exact for the square on each piece.
      const long double density = part.mass / (static_cast<long double>(part.high) - part.low);
      long double at = part.low;
      while (at < part.high) {
        const long double code = std::clamp<long double>(std::floor(at / step + 0.5L), least, greatest);
        long double to = (code + 0.5L) * step;
        if (to <= at) to += step;  // `at` is a cut, rounded
        if (to > part.high || code == greatest) to = part.high;
        const long double middle = (at + to) / 2;
        const long double level = std::clamp<long double>(std::floor(middle / step + 0.5L), least, greatest) * step;
        const long double a = at - level, m = middle - level, b = to - level;
        sum += density * (to - at) * (a * a + 4 * m * m + b * b) / 6;
        at = to;
      }
    }
    return sum;
  }

  // Values with sign * value > b, and the sum of what they have beyond b.
  std::pair<long double, long double> Tail(int sign, long double b) const {
    long double mass = 0, excess = 0;
    for (const Part& part : parts_) {
      const long double low = sign > 0 ? part.low : -part.high, high = sign > 0 ? part.high : -part.low;
      if (high <= b) continue;
      const long double from = std::max(low, b), share = low == high ? 1 : (high - from) / (high - low);
      mass += part.mass * share;
      excess += part.mass * share * ((from + high) / 2 - b);
    }
    return {mass, excess};
  }

  long double square_sum() const {
    long double sum = 0;
    for (const Part& part : parts_) {
      const long double low = part.low, high = part.high;
      sum += part.mass * (low * low + low * high + high * high) / 3;
    }
    return sum;
  }

 private:
  struct Part {
    double low, high;
    long double mass;
  };
  static long double Distance(long double x, long double step, int64_t least, int64_t greatest) {
    return x - std::clamp<long double>(std::floor(x / step + 0.5L), least, greatest) * step;
  }
  std::vector<Part> parts_;
};

void ExpectNear(double actual, long double expected, double relative, const std::string& what) {
  EXPECT_NEAR(actual, static_cast<double>(expected), relative * static_cast<double>(std::abs(expected))) << what;
}

// Compares everything with the oracle at many places.
void CheckAgainstOracle(const std::vector<float>& values, int mantissa_bits, const std::string& name) {
  const LayerStatistics statistics = ObserveValues(values, mantissa_bits);
  const ChannelStatistics& channel = statistics.channels().front();
  const BinModel model(channel);
  const Oracle oracle(channel);
  EXPECT_EQ(model.count(), static_cast<double>(channel.range.count));
  ExpectNear(model.square_sum(), oracle.square_sum(), 1e-12, name + " square_sum");
  const double widest = std::max(model.positive().greatest(), model.negative().greatest());
  if (widest == 0) return;
  for (const int sign : {1, -1}) {
    const BinModel::Side& side = sign > 0 ? model.positive() : model.negative();
    for (double b = side.greatest() * 1.1; b > side.least() / 4 && b > 0; b *= 0.61) {
      const auto [mass, excess] = oracle.Tail(sign, b);
      const std::string what = name + " b " + std::to_string(std::log2(b));
      ExpectNear(side.TailMass(b), mass, 1e-10, what);
      ExpectNear(side.TailExcess(b), excess, 1e-10, what);
    }
  }
  for (const auto& [below, above] :
       {std::pair<int64_t, int64_t>(1, 0), {2, 1}, {8, 7}, {0, 15}, {127, 127}, {200, 55}}) {
    for (const double reach : {2.0, 1.0, 0.97, 0.5, 0.031, 1e-3}) {
      const double step = widest * reach / static_cast<double>(std::max(above, below));
      const std::string what =
          name + " levels " + std::to_string(below) + "+" + std::to_string(above) + " reach " + std::to_string(reach);
      const long double expected = oracle.SquaredError(step, -below, above);
      const double exact = model.positive().SquaredError(step, above) + model.negative().SquaredError(step, below);
      EXPECT_NEAR(exact, static_cast<double>(expected),
                  static_cast<double>(1e-9 * expected + 1e-28 * oracle.square_sum()))
          << what;
      const double fast =
          model.positive().FastSquaredError(step, above) + model.negative().FastSquaredError(step, below);
      EXPECT_NEAR(fast, static_cast<double>(expected), static_cast<double>(1e-13 * oracle.square_sum())) << what;
    }
  }
}

std::vector<float> Gauss(size_t count, float sigma, float mean = 0) {
  std::mt19937_64 rng(count);
  std::normal_distribution<float> gauss(mean, sigma);
  std::vector<float> values(count);
  for (float& x : values) x = gauss(rng);
  return values;
}

TEST(BinModelTest, EqualsDirectEvaluation) {
  for (const int mantissa_bits : {7, 6, 4}) {
    CheckAgainstOracle(Gauss(5000, 1), mantissa_bits, "gauss");
    CheckAgainstOracle(Gauss(3000, 0.5f, 20), mantissa_bits, "far from zero");
    CheckAgainstOracle(Gauss(3000, 1e-39f), mantissa_bits, "subnormal");
    CheckAgainstOracle({3.25f, 3.25f, 3.25f}, mantissa_bits, "constant");
    CheckAgainstOracle({3.3f}, mantissa_bits, "one value");
    CheckAgainstOracle({3.3f, 3.301f}, mantissa_bits, "two values in one bin");
    CheckAgainstOracle({-3.3f, -3.301f, -3.302f, -7, 0, 0}, mantissa_bits, "negative");
    CheckAgainstOracle({FLT_MAX, -FLT_MAX, 1e38f, 1.0f}, mantissa_bits, "greatest");
    CheckAgainstOracle({FLT_TRUE_MIN, 5 * FLT_TRUE_MIN, -1e-40f}, mantissa_bits, "least");
    CheckAgainstOracle({0, 0, 0}, mantissa_bits, "zero");
  }
}

TEST(BinModelTest, EqualsDirectEvaluationOnRandomTensors) {
  test::Rng rng(11);
  for (int i = 0; i < 5; ++i) CheckAgainstOracle(test::RandomTensor(rng, 2000), 7, "random");
}

TEST(BinModelTest, LosslessHistogramIsPointMasses) {
  CheckAgainstOracle({0.5f, 0.5f, 0.75f, -3, 1, 0, 0.0078125f}, 7, "lossless");
  const LayerStatistics statistics = ObserveValues({1, 2, 3, 3, -1});
  const BinModel model(statistics.channels().front());
  EXPECT_EQ(model.positive().SquaredError(1, 3), 0);
  EXPECT_EQ(model.positive().SquaredError(1, 2), 2);
  EXPECT_EQ(model.negative().SquaredError(1, 0), 1);
  EXPECT_EQ(model.positive().TailMass(2), 2);
  EXPECT_EQ(model.positive().TailMass(1.99), 3);
}

TEST(BinModelTest, OneOutlierLeavesTheRestExact) {
  std::vector<float> values = Gauss(20000, 1);
  const LayerStatistics without = ObserveValues(values);
  values.push_back(1e30f);
  const LayerStatistics with = ObserveValues(values);
  const BinModel alone(without.channels().front()), model(with.channels().front());
  // At a scale that leaves the outlier on a level, only the others' error remains; they all round to zero.
  EXPECT_EQ(model.positive().greatest(), 1e30f);
  const double step = std::ldexp(static_cast<double>(1e30f), -6);
  const double error = model.positive().SquaredError(step, 127) + model.negative().SquaredError(step, 127);
  EXPECT_NEAR(error, alone.square_sum(), alone.square_sum() * 1e-3);  // the exact extremes differ a little
}

TEST(BinModelTest, SixteenBitsStayExact) {
  const std::vector<float> values = Gauss(20000, 1);
  const LayerStatistics statistics = ObserveValues(values);
  const BinModel model(statistics.channels().front());
  const Oracle oracle(statistics.channels().front());
  const double step = model.max() / 32767;
  const long double expected = oracle.SquaredError(step, -32768, 32767);
  ExpectNear(model.positive().SquaredError(step, 32767) + model.negative().SquaredError(step, 32768), expected, 1e-9,
             "int16");
}

TEST(BinModelTest, ExtremesOutsideTheirBinsDoNotBreakIt) {
  LayerStatistics statistics = ObserveValues(Gauss(1000, 1));
  for (const auto& [least, greatest] :
       {std::pair(-1e30f, 1e30f), {0.0f, 0.0f}, {5.0f, 6.0f}, {1e-30f, 1e-29f}, {-FLT_MAX, FLT_MAX}}) {
    ChannelStatistics channel = statistics.channels().front();
    channel.range.min = least;
    channel.range.max = greatest;
    const BinModel model(channel);
    EXPECT_EQ(model.count(), 1000);
    const double error = model.positive().SquaredError(0.01, 127) + model.negative().SquaredError(0.01, 128);
    EXPECT_GT(error, 0);
    EXPECT_LT(error, 2000);
  }
}

}  // namespace
}  // namespace calib
