#include "quant/learned.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr LearnedRule kRules[] = {LearnedRule::kPytorchPerChannel, LearnedRule::kPytorchPerTensor,
                                  LearnedRule::kPytorchFirst};

// Arguments of both functions, and their results.
struct Case {
  std::vector<float> scale = {1}, zero_point = {0};
  int64_t qmin = -8, qmax = 7;
  LearnedRule rule = LearnedRule::kPytorchPerChannel;
  ChannelBlocks blocks;
  double grad_factor = 1;
  std::vector<float> x, dy;

  std::vector<float> y, dx;
  std::vector<double> dscale, dzero_point;

  LearnedParams params() const { return {scale, zero_point, qmin, qmax, rule}; }
  absl::Status Forward() {
    y.assign(x.size(), kNan);
    return FakeQuantize(params(), blocks, x, absl::MakeSpan(y));
  }
  absl::Status Backward() {
    dx.assign(x.size(), kNan);
    dscale.assign(scale.size(), kNan);
    dzero_point.assign(scale.size(), kNan);
    return FakeQuantizeGradients(params(), blocks, grad_factor, x, dy, absl::MakeSpan(dx), absl::MakeSpan(dscale),
                                 absl::MakeSpan(dzero_point));
  }
  void Run() {
    EXPECT_EQ(Forward(), absl::OkStatus());
    EXPECT_EQ(Backward(), absl::OkStatus());
  }
};

// One channel of these values, dy 1.
Case Values(std::vector<float> x) {
  Case result;
  result.blocks.inner = x.size();
  result.dy.assign(x.size(), 1);
  result.x = std::move(x);
  return result;
}

template <typename T>
void ExpectNear(const std::vector<T>& actual, const std::vector<double>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 1e-5) << what << " " << i;
}

TEST(LearnedTest, Golden) {
  std::ifstream file(std::string(CALIB_GOLDEN_DIR) + "/learnable.json");
  const auto golden = nlohmann::json::parse(file);
  ASSERT_EQ(golden.size(), 20u);
  for (size_t i = 0; i < golden.size(); ++i) {
    const auto& expected = golden[i];
    ASSERT_EQ(expected.at("ch_axis"), 0);
    Case run;
    run.rule = LearnedRule::kPytorchFirst;
    run.qmin = expected.at("qmin").get<int64_t>();
    run.qmax = expected.at("qmax").get<int64_t>();
    run.grad_factor = expected.at("grad_factor").get<double>();
    run.scale = expected.at("scale").get<std::vector<float>>();
    run.zero_point = expected.at("zero_point").get<std::vector<float>>();
    run.x = expected.at("X").get<std::vector<float>>();
    run.dy = expected.at("dY").get<std::vector<float>>();
    run.blocks = {1, run.scale.size(), run.x.size() / run.scale.size()};
    run.Run();
    const std::string what = "case " + std::to_string(i) + ", ";
    ExpectNear(run.y, expected.at("Y").get<std::vector<double>>(), what + "Y");
    ExpectNear(run.dx, expected.at("dX").get<std::vector<double>>(), what + "dX");
    ExpectNear(run.dscale, expected.at("dScale").get<std::vector<double>>(), what + "dScale");
    ExpectNear(run.dzero_point, expected.at("dZeroPoint").get<std::vector<double>>(), what + "dZeroPoint");
  }
}

TEST(LearnedTest, RoundsHalfToEven) {
  Case run = Values({0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.49999997f, 100.5f, 8388609.0f});
  run.qmin = -(1 << 24);
  run.qmax = 1 << 24;
  run.Run();
  EXPECT_THAT(run.y, ElementsAre(0, 2, 2, 0, -2, 0, 100, 8388609));
  // The quotient is rounded, then the zero point added; the first rule rounds the sum.
  run = Values({0.5f, 1.5f});
  run.zero_point = {1};
  run.dy = {1, 4};
  run.Run();
  EXPECT_THAT(run.y, ElementsAre(0, 2));
  // Gradients round the sum by every rule: here the outputs are 1.
  EXPECT_THAT(run.dscale, ElementsAre(0.5 - 4 * 0.5));
  run.rule = LearnedRule::kPytorchFirst;
  run.Run();
  EXPECT_THAT(run.y, ElementsAre(1, 1));
  EXPECT_THAT(run.dscale, ElementsAre(0.5 - 4 * 0.5));
}

TEST(LearnedTest, NeitherScaleNorCodesAreNegativeZero) {
  for (const LearnedRule rule : kRules) {
    Case run = Values({-0.0f, -0.2f, 0.2f});
    run.rule = rule;
    run.zero_point = {-0.2f};
    run.Run();
    for (const float y : run.y) EXPECT_FALSE(std::signbit(y));
  }
}

TEST(LearnedTest, ZeroPointsBetweenCodes) {
  const auto zero_points = [](LearnedRule rule, float zero_point) {
    Case run = Values({1000});  // saturates: y = 7 - the forward zero point, dscale = 7 - the backward one
    run.rule = rule;
    run.zero_point = {zero_point};
    run.Run();
    return std::pair<double, double>(7 - run.y[0], 7 - run.dscale[0]);
  };
  using Pair = std::pair<double, double>;
  EXPECT_EQ(zero_points(LearnedRule::kPytorchPerChannel, 2.5f), Pair(2, 2));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchPerChannel, -2.7f), Pair(-3, -3));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchPerTensor, 2.5f), Pair(2, 3));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchPerTensor, -2.7f), Pair(-3, -2));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchPerTensor, -3), Pair(-3, -2));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchFirst, 2.5f), Pair(3, 3));
  EXPECT_EQ(zero_points(LearnedRule::kPytorchFirst, -2.7f), Pair(-2, -2));
  for (const LearnedRule rule : kRules) {
    EXPECT_EQ(zero_points(rule, 100), Pair(7, 7));
    EXPECT_EQ(zero_points(rule, -100).first, -8);
  }
}

TEST(LearnedTest, WhatIsSaturated) {
  // Codes 7, 7 (half a code above), 8 and -8, -9.
  Case run = Values({7.0f, 7.25f, 7.75f, -8.0f, -8.75f});
  run.Run();
  EXPECT_THAT(run.dx, ElementsAre(1, 1, 0, 1, 0));
  EXPECT_THAT(run.dscale, ElementsAre(0 - 0.25 + 7 + 0 - 8));
  EXPECT_THAT(run.dzero_point, ElementsAre(-2));
  run.rule = LearnedRule::kPytorchFirst;
  run.Run();
  EXPECT_THAT(run.dx, ElementsAre(1, 1, 0, 1, 0));
  EXPECT_THAT(run.dscale, ElementsAre(3 * 7 - 2 * 8));
  EXPECT_THAT(run.dzero_point, ElementsAre(-5));
}

TEST(LearnedTest, NanAndInfinities) {
  for (const LearnedRule rule : kRules) {
    Case run = Values({kNan, kInfinity, -kInfinity, FLT_MAX, -FLT_MAX, 1.0f});
    run.rule = rule;
    run.dy = {100, 1, 2, 4, 8, 16};
    run.scale = {0.5f};
    run.Run();
    EXPECT_TRUE(std::isnan(run.y[0]));
    run.y[0] = 0;
    EXPECT_THAT(run.y, ElementsAre(0, 3.5f, -4, 3.5f, -4, 1));
    EXPECT_THAT(run.dx, ElementsAre(0, 0, 0, 0, 0, 16));
    EXPECT_THAT(run.dscale, ElementsAre(5 * 7 - 10 * 8));
    EXPECT_THAT(run.dzero_point, ElementsAre(-0.5 * 15));
  }
}

TEST(LearnedTest, EmptyTensors) {
  Case run = Values({});
  run.Run();
  EXPECT_THAT(run.dscale, ElementsAre(0));
  EXPECT_THAT(run.dzero_point, ElementsAre(0));
  run.blocks = {size_t{1} << 60, 1, 0};  // must not be walked through
  run.Run();
  run.blocks = {0, 1, 5};
  run.Run();
  run.scale.clear();
  run.zero_point.clear();
  run.blocks = {3, 0, 5};
  run.Run();
  EXPECT_THAT(run.dscale, IsEmpty());
}

TEST(LearnedTest, ChannelsAreIndependentAndBlocksOfOneAddUp) {
  constexpr size_t kOuter = 3, kChannels = 4, kInner = 5;
  std::mt19937_64 rng(3);
  std::normal_distribution<float> gauss(0, 4);
  Case all;
  all.blocks = {kOuter, kChannels, kInner};
  all.grad_factor = 0.25;
  all.scale = {0.5f, 1.25f, 0.1f, 3};
  all.zero_point = {0, 3, -4, 2.25f};
  for (size_t i = 0; i < all.blocks.elements(); ++i) {
    all.x.push_back(gauss(rng));
    all.dy.push_back(gauss(rng));
  }
  for (const LearnedRule rule : kRules) {
    all.rule = rule;
    all.Run();
    for (size_t channel = 0; channel < kChannels; ++channel) {
      std::vector<size_t> at;
      Case one;
      one.rule = rule;
      one.grad_factor = all.grad_factor;
      one.blocks.inner = kOuter * kInner;
      one.scale = {all.scale[channel]};
      one.zero_point = {all.zero_point[channel]};
      for (size_t outer = 0; outer < kOuter; ++outer) {
        for (size_t i = 0; i < kInner; ++i) {
          at.push_back((outer * kChannels + channel) * kInner + i);
          one.x.push_back(all.x[at.back()]);
          one.dy.push_back(all.dy[at.back()]);
        }
      }
      one.Run();
      for (size_t i = 0; i < at.size(); ++i) {
        EXPECT_EQ(all.y[at[i]], one.y[i]);
        EXPECT_EQ(all.dx[at[i]], one.dx[i]);
      }
      EXPECT_EQ(all.dscale[channel], one.dscale[0]);
      EXPECT_EQ(all.dzero_point[channel], one.dzero_point[0]);
    }
  }
}

TEST(LearnedTest, MayWriteOverItsInput) {
  Case run = Values({-20, 0.3f, 1.6f, 20});
  run.dy = {1, 2, 3, 4};
  run.Run();
  std::vector<float> x = run.x, dy = run.dy;
  std::vector<double> dscale(1), dzero_point(1);
  ASSERT_EQ(FakeQuantizeGradients(run.params(), run.blocks, 1, x, dy, absl::MakeSpan(dy), absl::MakeSpan(dscale),
                                  absl::MakeSpan(dzero_point)),
            absl::OkStatus());
  EXPECT_EQ(dy, run.dx);
  EXPECT_EQ(dscale, run.dscale);
  ASSERT_EQ(FakeQuantize(run.params(), run.blocks, x, absl::MakeSpan(x)), absl::OkStatus());
  EXPECT_EQ(x, run.y);
}

// The function whose gradients the straight-through estimator takes: what rounding adds to an element's code is a
// constant, so it is differentiable but where clamping begins.
class Surrogate {
 public:
  explicit Surrogate(const Case& run) : run_(run), scale_(run.scale[0]), zero_point_(run.zero_point[0]) {
    for (const double x : run.x) {
      const double code = x / scale_ + zero_point_;
      rounding_.push_back(std::nearbyint(code) - code);
    }
  }

  double Loss(double dx, size_t moved, double dscale, double dzero_point) const {
    const double scale = scale_ + dscale, zero_point = zero_point_ + dzero_point;
    double loss = 0;
    for (size_t i = 0; i < run_.x.size(); ++i) {
      const double x = run_.x[i] + (i == moved ? dx : 0);
      const double code = std::clamp(x / scale + zero_point + rounding_[i], static_cast<double>(run_.qmin),
                                     static_cast<double>(run_.qmax));
      loss += run_.dy[i] * (code - zero_point) * scale;
    }
    return loss;
  }

 private:
  const Case& run_;
  double scale_, zero_point_;
  std::vector<double> rounding_;
};

TEST(LearnedTest, GradientsEqualFiniteDifferences) {
  std::mt19937_64 rng(7);
  std::normal_distribution<float> gauss(0, 6);
  for (const float zero_point : {0.0f, 3.0f, -5.0f}) {
    Case run;
    run.scale = {0.75f};
    run.zero_point = {zero_point};
    while (run.x.size() < 200) {
      const float x = gauss(rng);
      // Away from where it isn't differentiable: a code at qmin or qmax is there by rounding.
      const double code = std::nearbyint(x / 0.75 + zero_point);
      if (code == -8 || code == 7) continue;
      run.x.push_back(x);
      run.dy.push_back(gauss(rng));
    }
    run.blocks.inner = run.x.size();
    run.Run();
    const Surrogate surrogate(run);
    const double h = 1e-6;
    const auto slope = [&](double dx, size_t moved, double dscale, double dzero_point) {
      return (surrogate.Loss(dx, moved, dscale, dzero_point) - surrogate.Loss(-dx, moved, -dscale, -dzero_point)) /
             (2 * h);
    };
    EXPECT_NEAR(run.dscale[0], slope(0, 0, h, 0), 1e-3) << zero_point;
    EXPECT_NEAR(run.dzero_point[0], slope(0, 0, 0, h), 1e-3) << zero_point;
    for (size_t i = 0; i < run.x.size(); ++i) EXPECT_NEAR(run.dx[i], slope(h, i, 0, 0), 1e-3) << zero_point << " " << i;
  }
}

TEST(LearnedTest, SaturatedElementsAreDifferentiableThemselves) {
  Case run = Values({100, -100, 50, 40, -60});
  run.dy = {1, 2, -3, 0.5f, 0.25f};
  run.scale = {0.5f};
  run.zero_point = {2};
  run.Run();
  EXPECT_THAT(run.dx, Each(0));
  const auto loss = [&](float scale, float zero_point) {
    Case moved = run;
    moved.scale = {scale};
    moved.zero_point = {zero_point};
    EXPECT_EQ(moved.Forward(), absl::OkStatus());
    double sum = 0;
    for (size_t i = 0; i < moved.y.size(); ++i) sum += double{moved.dy[i]} * moved.y[i];
    return sum;
  };
  EXPECT_EQ(run.dscale[0], (loss(0.625f, 2) - loss(0.375f, 2)) / 0.25);
  EXPECT_EQ(run.dzero_point[0], (loss(0.5f, 3) - loss(0.5f, 1)) / 2);
}

TEST(LearnedTest, Refusals) {
  const auto expect_refused = [](auto&& change, const char* what) {
    Case run = Values({1, 2, 3, 4, 5, 6});
    run.scale = {1, 2};
    run.zero_point = {0, 1};
    run.blocks = {1, 2, 3};
    run.Run();
    change(run);
    EXPECT_EQ(run.Forward().code(), absl::StatusCode::kInvalidArgument) << what;
    EXPECT_EQ(run.Backward().code(), absl::StatusCode::kInvalidArgument) << what;
  };
  expect_refused([](Case& run) { run.scale.push_back(1); }, "scales");
  expect_refused([](Case& run) { run.zero_point.pop_back(); }, "zero points");
  expect_refused([](Case& run) { run.blocks.inner = 4; }, "elements");
  expect_refused([](Case& run) { run.blocks = {size_t{1} << 62, 2, 3}; }, "sizes that wrap");
  expect_refused([](Case& run) { run.blocks = {3 + (size_t{1} << 63), 2, 1}; }, "sizes that wrap to the right number");
  for (const float scale : {0.0f, -1.0f, FLT_MIN / 2, kInfinity, kNan}) {
    expect_refused([&](Case& run) { run.scale[1] = scale; }, "scale");
  }
  for (const float zero_point : {kInfinity, -kInfinity, kNan}) {
    expect_refused([&](Case& run) { run.zero_point[1] = zero_point; }, "zero point");
  }
  expect_refused([](Case& run) { run.qmin = 1; }, "qmin above zero");
  expect_refused([](Case& run) { run.qmax = -1; }, "qmax below zero");
  expect_refused([](Case& run) { run.qmin = run.qmax = 0; }, "one code");
  expect_refused([](Case& run) { run.qmax = (1 << 24) + 1; }, "codes that float32 doesn't have");
  expect_refused([](Case& run) { run.qmin = -(1 << 24) - 1; }, "codes that float32 doesn't have");

  Case run = Values({1, 2});
  for (const double factor : {double{kNan}, double{kInfinity}}) {
    run.grad_factor = factor;
    EXPECT_EQ(run.Backward().code(), absl::StatusCode::kInvalidArgument);
  }
  run.grad_factor = 1;
  run.dy.pop_back();
  EXPECT_EQ(run.Backward().code(), absl::StatusCode::kInvalidArgument);
  std::vector<float> short_output(1);
  EXPECT_EQ(FakeQuantize(run.params(), run.blocks, run.x, absl::MakeSpan(short_output)).code(),
            absl::StatusCode::kInvalidArgument);
  std::vector<double> one(1), two(2);
  std::vector<float> dx(2);
  for (const auto& [dscale, dzero_point] : {std::pair(&one, &two), {&two, &one}}) {
    EXPECT_EQ(FakeQuantizeGradients(run.params(), run.blocks, 1, run.x, run.x, absl::MakeSpan(dx),
                                    absl::MakeSpan(*dscale), absl::MakeSpan(*dzero_point))
                  .code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace calib
