#include "quant/learned_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "quant/heap_optional.h"
#include "tests/quant/methods_test_util.h"

// optimizer_differential.py holds the arithmetic against PyTorch's.
namespace calib {
namespace {

using ::testing::HasSubstr;

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

LearnedOptions Sgd(double learning_rate, double momentum = 0) {
  LearnedOptions options;
  options.learning_rate = learning_rate;
  options.momentum = momentum;
  return options;
}

LearnedOptions Adam(double learning_rate) {
  LearnedOptions options;
  options.optimizer = LearnedOptimizer::kAdam;
  options.learning_rate = learning_rate;
  return options;
}

LearnedOptions Affine(LearnedOptions options, absl::string_view type = "int8") {
  options.spec = test::MakeSpec(type, QuantScheme::kAffine);
  options.initial = DefaultLearnedInitial(QuantScheme::kAffine);
  return options;
}

// Applies gradients, one a step.
LearnedState RunSteps(const LearnedOptions& options, LearnedState state, const std::vector<LearnedGradient>& gradients,
                      double grad_factor = 1) {
  EXPECT_EQ(CheckLearnedOptions(options), absl::OkStatus());
  const QuantRules rules = *ResolveSpec(options.spec);
  for (const LearnedGradient& gradient : gradients) {
    LearnedStep(options, rules, grad_factor, state.steps).Apply(gradient, &state);
    EXPECT_EQ(CheckLearnedState(options, state), absl::OkStatus());
  }
  return state;
}

LearnedState At(float scale, float zero_point = 0) {
  LearnedState state;
  state.scale = scale;
  state.zero_point = zero_point;
  return state;
}

TEST(LearnedStateTest, SgdGoesAgainstTheGradient) {
  EXPECT_EQ(RunSteps(Sgd(0.25), At(2), {{1, 8}, {-2, 8}}).scale, 2.25f);
  EXPECT_EQ(RunSteps(Sgd(0.25), At(2), {{1, 8}}, 0.5).scale, 1.875f) << "the factor";
  const LearnedState state = RunSteps(Affine(Sgd(0.25)), At(2, 10), {{1, 8}, {-2, -4}});
  EXPECT_EQ(state.scale, 2.25f);
  EXPECT_EQ(state.zero_point, 9);
  EXPECT_EQ(state.steps, 2u);
}

// v = 1, then 1/2 x 1 + 1, then 1/2 x 1.5 - 1.
TEST(LearnedStateTest, MomentumAddsUp) {
  const LearnedState state = RunSteps(Affine(Sgd(0.5, 0.5)), At(4, 10), {{1, 2}, {1, 2}, {-1, -2}});
  EXPECT_EQ(state.scale, 4 - 0.5f * (1 + 1.5f - 0.25f));
  EXPECT_EQ(state.scale_moments, (LearnedMoments{-0.25f, 0}));
  EXPECT_EQ(state.zero_point, 10 - 0.5f * (2 + 3 - 0.5f));
  EXPECT_EQ(state.zero_point_moments, (LearnedMoments{-0.5f, 0}));
}

// With bias correction the first step is the learning rate, whatever the gradient's size.
TEST(LearnedStateTest, AdamsStepsAreOfTheLearningRate) {
  for (const double size : {1e-5, 1.0, 1e5}) {
    const LearnedState state = RunSteps(Affine(Adam(0.125)), At(2, 10), {{size, -size}});
    EXPECT_NEAR(state.scale, 2 - 0.125, 2e-4) << size;
    EXPECT_NEAR(state.zero_point, 10.125, 2e-4) << size;
    EXPECT_FLOAT_EQ(state.scale_moments.first, static_cast<float>(0.1 * size));
    EXPECT_FLOAT_EQ(state.scale_moments.second, static_cast<float>(0.001 * size * size));
  }
  EXPECT_NEAR(RunSteps(Adam(0.125), At(2), std::vector<LearnedGradient>(8, {3, 0})).scale, 1, 1e-4);
}

TEST(LearnedStateTest, SymmetricZeroPointsStay) {
  LearnedOptions options = Adam(0.1);
  options.spec = test::MakeSpec("uint8");
  const QuantRules rules = *ResolveSpec(options.spec);
  const LearnedState begin = InitialLearnedState(rules, {0.5f, 0});
  EXPECT_EQ(begin.zero_point, 128) << "a range without width can have another zero point in some presets";
  const LearnedState state = RunSteps(options, begin, {{1, 100}, {1, -3}});
  EXPECT_EQ(state.zero_point, 128);
  EXPECT_EQ(state.zero_point_moments, LearnedMoments());
}

TEST(LearnedStateTest, ScalesStayAboveTheFloorAndZeroPointsInTheCodes) {
  const LearnedState low = RunSteps(Affine(Sgd(1)), At(1, 0), {{100, 1000}});
  EXPECT_EQ(low.scale, 0x1p-23f);
  EXPECT_EQ(low.zero_point, -128);
  const LearnedState high = RunSteps(Affine(Sgd(1)), At(1, 0), {{-1, -1000}});
  EXPECT_EQ(high.zero_point, 127);
  EXPECT_EQ(RunSteps(Affine(Sgd(1)), low, {{-3, -1}}).scale, 3 + 0x1p-23f) << "the floor holds nothing down";
  QuantRules rules = *ResolveSpec(test::MakeSpec("int8", QuantScheme::kSymmetric, QuantPreset::kMegengine));
  EXPECT_EQ(LearnedScaleFloor(rules), 1e-5f);
  rules = *ResolveSpec(test::MakeSpec("int8", QuantScheme::kSymmetric, QuantPreset::kTensorrt));
  EXPECT_EQ(LearnedScaleFloor(rules), FLT_MIN);
  EXPECT_EQ(InitialLearnedState(rules, {FLT_TRUE_MIN, 0}).scale, FLT_MIN);
}

TEST(LearnedStateTest, ParamsRoundHalfToEven) {
  for (const auto& [zero_point, code] : {std::pair(0.5f, 0),
                                         {1.5f, 2},
                                         {2.5f, 2},
                                         {-0.5f, 0},
                                         {-1.5f, -2},
                                         {-127.5f, -128},
                                         {126.5f, 126},
                                         {3.4f, 3},
                                         {-3.6f, -4}}) {
    EXPECT_EQ(At(0.5f, zero_point).Params(), (QParams{0.5f, code})) << zero_point;
  }
}

// However great the gradients: no NaN, no infinity, and what comes out is a state.
TEST(LearnedStateTest, OverflowStaysFinite) {
  std::mt19937_64 rng(5);
  std::vector<LearnedOptions> all = {Sgd(1), Sgd(FLT_MAX, 0.99), Adam(1), Adam(FLT_MAX)};
  all.back().beta1 = 0.9999999;
  for (const LearnedOptions& options : all) {
    for (int round = 0; round < 50; ++round) {
      LearnedState state = At(1, 3);
      for (int step = 0; step < 40; ++step) {
        constexpr double kSizes[] = {0, 1e-300, FLT_TRUE_MIN, 1, 1e19, 1e30, FLT_MAX};
        const auto any = [&] { return kSizes[rng() % std::size(kSizes)] * (rng() % 2 == 0 ? 1 : -1); };
        const LearnedGradient gradient{any(), any()};
        ASSERT_TRUE(LearnedStep::IsFinite(1, gradient));
        state = RunSteps(Affine(options), state, {gradient});
        ASSERT_TRUE(std::isnormal(state.scale) && std::isfinite(state.zero_point));
      }
    }
  }
}

TEST(LearnedStateTest, GradientsThatAreNotFloat32AreToldApart) {
  EXPECT_TRUE(LearnedStep::IsFinite(1, {FLT_MAX, -FLT_MAX}));
  EXPECT_TRUE(LearnedStep::IsFinite(1e-3, {1e40, 0}));
  for (const double bad : {1e39, -1e39, double{INFINITY}, kNotANumber}) {
    EXPECT_FALSE(LearnedStep::IsFinite(1, {bad, 0})) << bad;
    EXPECT_FALSE(LearnedStep::IsFinite(1, {0, bad})) << bad;
  }
}

struct Malformed {
  std::string message;  // a part of it
  std::function<void(LearnedOptions*)> spoil;
};

TEST(LearnedStateTest, OptionsOutOfRangeAreRefused) {
  const auto sgd = [](auto set) { return set; };
  const auto adam = [](auto set) {
    return [set](LearnedOptions* options) {
      options->optimizer = LearnedOptimizer::kAdam;
      set(options);
    };
  };
  const std::vector<Malformed> cases = {
      {"learning_rate is 0;", sgd([](LearnedOptions* o) { o->learning_rate = 0; })},
      {"learning_rate is -1;", adam([](LearnedOptions* o) { o->learning_rate = -1; })},
      {"learning_rate is nan;", sgd([](LearnedOptions* o) { o->learning_rate = kNotANumber; })},
      {"learning_rate is 1e-60;", sgd([](LearnedOptions* o) { o->learning_rate = 1e-60; })},
      {"learning_rate is 1e+39;", sgd([](LearnedOptions* o) { o->learning_rate = 1e39; })},
      {"momentum is 1;", sgd([](LearnedOptions* o) { o->momentum = 1; })},
      {"momentum is -1e-60;", sgd([](LearnedOptions* o) { o->momentum = -1e-60; })},
      {"momentum is nan;", sgd([](LearnedOptions* o) { o->momentum = kNotANumber; })},
      {"beta1 is 1;", adam([](LearnedOptions* o) { o->beta1 = 1 - 1e-12; })},
      {"beta2 is 1.5;", adam([](LearnedOptions* o) { o->beta2 = 1.5; })},
      {"epsilon is 0;", adam([](LearnedOptions* o) { o->epsilon = 0; })},
      {"epsilon is inf;", adam([](LearnedOptions* o) { o->epsilon = INFINITY; })},
      {"integer", [](LearnedOptions* o) { o->spec.type = *ParseQuantType("fp8_e4m3"); }},
      {"auto8", [](LearnedOptions* o) { o->spec.type = *ParseQuantType("auto8"); }},
      {"power_of_two", [](LearnedOptions* o) { o->spec.power_of_two_scale = true; }},
      {"2^24", [](LearnedOptions* o) { o->spec.type = *ParseQuantType("int32"); }},
      {"2^24", [](LearnedOptions* o) { o->spec.type = *ParseQuantType("uint25"); }},
      {"from -5 to 0",
       [](LearnedOptions* o) {
         o->spec.codes = {-5, 0};
       }},
      {"-300",
       [](LearnedOptions* o) {
         o->spec.codes = {-300, 5};
       }},
      {"percentile is 0;",
       [](LearnedOptions* o) {
         o->initial = {CalibrationMethod::kPercentile, 0};
       }},
      {"symmetric", [](LearnedOptions* o) { o->spec.scheme = QuantScheme::kAffine; }},
  };
  for (const Malformed& malformed : cases) {
    LearnedOptions options = Sgd(0.1);
    malformed.spoil(&options);
    const absl::Status status = CheckLearnedOptions(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << malformed.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
  }
  // What belongs to the other optimizer is not read.
  LearnedOptions options = Sgd(0.1);
  options.beta1 = 7;
  EXPECT_EQ(CheckLearnedOptions(options), absl::OkStatus());
  for (const char* type : {"int1", "int2", "uint4", "int8", "int16", "uint24", "int25"}) {
    EXPECT_EQ(CheckLearnedOptions(Affine(Adam(1e-3), type)), absl::OkStatus()) << type;
  }
}

TEST(LearnedStateTest, StatesThatNoStepsLeadToAreRefused) {
  const LearnedOptions affine = Affine(Adam(1e-3)), symmetric = Sgd(0.1), momentum = Affine(Sgd(0.1, 0.9));
  const auto check = [](const LearnedOptions& options, const std::function<void(LearnedState*)>& spoil) {
    LearnedState state = At(1, 0);
    state.steps = 3;
    spoil(&state);
    return CheckLearnedState(options, state).code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(check(affine, [](auto* s) { s->scale_moments = {-1, 2}; }), absl::StatusCode::kOk);
  EXPECT_EQ(check(momentum, [](auto* s) { s->zero_point_moments = {-1, 0}; }), absl::StatusCode::kOk);
  for (const float scale : {0.0f, -1.0f, 1e-10f, float{INFINITY}, float{NAN}}) {
    EXPECT_EQ(check(affine, [&](auto* s) { s->scale = scale; }), kBad) << scale;
  }
  for (const float zero_point : {-129.0f, 127.5f, float{NAN}}) {
    EXPECT_EQ(check(affine, [&](auto* s) { s->zero_point = zero_point; }), kBad) << zero_point;
  }
  EXPECT_EQ(check(symmetric, [](auto* s) { s->zero_point = 1; }), kBad);
  EXPECT_EQ(check(symmetric, [](auto* s) { s->scale_moments.first = 1; }), kBad) << "no momentum";
  EXPECT_EQ(check(momentum, [](auto* s) { s->scale_moments.second = 1; }), kBad) << "no squares";
  EXPECT_EQ(check(affine, [](auto* s) { s->scale_moments.second = -1; }), kBad);
  EXPECT_EQ(check(affine, [](auto* s) { s->zero_point_moments.first = INFINITY; }), kBad);
  EXPECT_EQ(check(affine, [](auto* s) { s->scale_moments.first = 1, s->steps = 0; }), kBad) << "before the first step";
}

TEST(HeapOptionalTest, HoldsAValueOrNone) {
  HeapOptional<LearnedState> empty, one = At(1), two = At(2);
  EXPECT_FALSE(empty.has_value());
  EXPECT_EQ(empty, HeapOptional<LearnedState>());
  EXPECT_FALSE(empty == one);
  EXPECT_FALSE(one == empty);
  EXPECT_FALSE(one == two);
  HeapOptional<LearnedState> copy = two;
  EXPECT_EQ(copy, two);
  copy->scale = 5;
  EXPECT_EQ(two->scale, 2) << "copies are their own";
  copy = one;
  EXPECT_EQ((*copy).scale, 1);
  copy = static_cast<const HeapOptional<LearnedState>&>(copy);  // itself
  EXPECT_EQ(copy, one);
  copy = empty;
  EXPECT_FALSE(copy.has_value());
  EXPECT_EQ(copy.HeapBytes(), 0u);
  EXPECT_EQ(one.HeapBytes(), sizeof(LearnedState));
  const HeapOptional<LearnedState> moved = std::move(one);
  EXPECT_EQ(moved->scale, 1);
}

}  // namespace
}  // namespace calib
