#include "quant/code_error.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <string>

#include "quant/expected_error.h"
#include "tests/quant/methods_test_util.h"
#include "tests/support/random_tensors.h"

namespace calib {
namespace {

BinModel CodeModel(const std::vector<float>& values) {
  return BinModel(test::ObserveValues(values).channels().front());
}

std::vector<float> Values(size_t count, bool lossless) {
  test::Rng rng(9);
  std::lognormal_distribution<float> magnitude(0, 2);
  std::vector<float> values(count);
  for (float& x : values) {
    x = magnitude(rng);
    if (lossless) x = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000u);
  }
  return values;
}

double Nearest(CodeKind kind, double y, int64_t levels) {
  if (!IsFloat8(kind)) return std::min(std::floor(y + 0.5), static_cast<double>(levels));
  double nearest = 0;
  for (const double number : Float8Numbers(kind)) {
    if (std::abs(y - number) < std::abs(y - nearest)) nearest = number;
  }
  return nearest;
}

// The model's sum by quadrature: midpoints of many parts of every bin.
double Quadrature(const BinModel::Side& side, CodeKind kind, double step, int64_t levels, double norm) {
  const auto error = [&](double x) { return std::pow(std::abs(x - step * Nearest(kind, x / step, levels)), norm); };
  constexpr int kParts = 400;
  double sum = 0;
  for (const BinModel::Bin& bin : side.bins()) {
    sum += bin.at_begin * error(bin.begin) + bin.at_end * error(bin.end);
    const double uniform = bin.mass - bin.at_begin - bin.at_end;
    for (int i = 0; uniform > 0 && i < kParts; ++i) {
      sum += uniform / kParts * error(bin.begin + (bin.end - bin.begin) * (i + 0.5) / kParts);
    }
  }
  return sum;
}

TEST(CodeErrorTest, EqualsQuadrature) {
  for (const bool lossless : {false, true}) {
    const BinModel model = CodeModel(Values(300, lossless));
    const BinModel::Side& side = model.positive();
    const double unit = side.greatest();
    for (const CodeKind kind : {CodeKind::kInteger, CodeKind::kFloat8E4M3, CodeKind::kFloat8E5M2}) {
      const double most = IsFloat8(kind) ? Float8Numbers(kind).back() : 100;
      for (const double norm : {1.0, 2.0, 2.4, 5.0}) {
        const NormError errors(side, kind, norm, unit);
        EXPECT_NEAR(errors.sum() * std::pow(unit, norm), Quadrature(side, CodeKind::kInteger, 1, 0, norm),
                    1e-4 * errors.sum() * std::pow(unit, norm));
        for (const double share : {0.02, 0.3, 0.9, 1.7}) {
          const double step = share * side.greatest() / most;
          const double expected = Quadrature(side, kind, step, 100, norm);
          const double tolerance = (lossless ? 1e-9 : 2e-3) * expected;
          EXPECT_NEAR(errors.Error(step, 100) * std::pow(unit, norm), expected, tolerance)
              << static_cast<int>(kind) << " norm " << norm << " share " << share;
          if (norm == 2 && IsFloat8(kind)) {
            EXPECT_NEAR(Float8SquaredError(side, kind, step), expected, tolerance);
          }
        }
      }
    }
  }
}

TEST(CodeErrorTest, NormTwoIsTheSquaredError) {
  const BinModel model = CodeModel(Values(20000, false));
  const BinModel::Side& side = model.positive();
  const double unit = side.greatest(), square = unit * unit;
  for (const double step : {0.001, 0.1, 1.0, 30.0}) {
    for (const int64_t levels : {0, 1, 7, 127, 70000}) {
      const double expected = side.SquaredError(step, levels);
      EXPECT_NEAR(NormError(side, CodeKind::kInteger, 2, unit).Error(step, levels) * square, expected, 1e-6 * expected);
    }
    for (const CodeKind kind : {CodeKind::kFloat8E4M3, CodeKind::kFloat8E5M2}) {
      const double expected = Float8SquaredError(side, kind, step);
      EXPECT_NEAR(NormError(side, kind, 2, unit).Error(step, 0) * square, expected, 1e-6 * expected);
    }
  }
}

TEST(CodeErrorTest, GainIsTheDifferenceOfErrorsAndFalls) {
  for (const bool lossless : {false, true}) {
    const BinModel model = CodeModel(Values(5000, lossless));
    const BinModel::Side& side = model.positive();
    for (const double norm : {1.0, 2.4, 4.0}) {
      const NormError errors(side, CodeKind::kInteger, norm, side.greatest());
      const double step = side.greatest() / 40;
      double last = HUGE_VAL;
      for (int64_t levels = 0; levels < 45; ++levels) {
        const double gain = errors.Gain(step, levels);
        EXPECT_NEAR(gain, errors.Error(step, levels) - errors.Error(step, levels + 1),
                    1e-6 * errors.Error(step, levels));
        EXPECT_LE(gain, last * (1 + 1e-12));
        last = gain;
      }
      EXPECT_EQ(errors.Gain(step, 45), 0);
    }
  }
}

TEST(CodeErrorTest, Float8NumbersCostNothing) {
  for (const CodeKind kind : {CodeKind::kFloat8E4M3, CodeKind::kFloat8E5M2}) {
    std::vector<float> values;
    for (const double number : Float8Numbers(kind)) values.push_back(static_cast<float>(-number));
    const BinModel model = CodeModel(values);
    QuantRules rules;
    rules.kind = kind;
    const ExpectedError error = EvaluateError(model, rules, {1, 0});
    EXPECT_LT(error.squared_error, 1e-13 * error.square_sum);
    EXPECT_EQ(error.saturated, 0);
    EXPECT_GT(EvaluateError(model, rules, {0.75, 0}).saturated, 0);
  }
}

}  // namespace
}  // namespace calib
