// The options of `session create` as the config that they make.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "client/cli/observer_options.h"
#include "client/cli/synchronous_options.h"
#include "proto/codec/config_codec.h"

namespace calib::cli {
namespace {

using ::testing::HasSubstr;

// Parses a command line; throws as CLI11 does.
v1::SessionConfig Parse(const std::string& line) {
  CLI::App app;
  std::string path;
  CLI::Option* const config_option = app.add_option("--config", path);
  const ObserverOptions observer(&app, config_option);
  const SynchronousStepOptions synchronous(&app, config_option);
  app.parse(line);
  observer.Check(app);
  synchronous.Check();
  v1::SessionConfig config;
  observer.AddRule(&config);
  synchronous.Fill(&config);
  return config;
}

// The config as a server takes it.
SessionConfig Decoded(const std::string& line) {
  const v1::SessionConfig message = Parse(line);
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(message);
  EXPECT_TRUE(config.ok()) << config.status() << " " << message.ShortDebugString();
  return config.value_or(SessionConfig());
}

void ExpectRefused(const std::string& line, const std::string& message) {
  try {
    Parse(line);
    ADD_FAILURE() << line << " is taken";
  } catch (const CLI::ParseError& error) {
    EXPECT_THAT(error.what(), HasSubstr(message)) << line;
  }
}

LearnedOptions LearnedOf(const std::string& options) {
  const SessionConfig config = Decoded("--world-size 4 --observer learned " + options);
  const std::optional<ObserverConfig>& observer = config.rules.rules().at(0).observer;
  if (!observer.has_value() || !observer->learned.has_value()) {
    ADD_FAILURE() << options << " makes no learned observer";
    return {};
  }
  EXPECT_EQ(observer->kind, ObserverKind::kLearned);
  return *observer->learned;
}

TEST(SessionOptionsTest, NothingGivenIsTheDefault) {
  EXPECT_EQ(Parse("").ByteSizeLong(), 0u);
  EXPECT_EQ(Decoded(""), SessionConfig());
  EXPECT_EQ(Decoded("--observer histogram"), SessionConfig());
}

TEST(SessionOptionsTest, LearnedObservers) {
  LearnedOptions expected;
  EXPECT_EQ(LearnedOf(""), expected);
  expected.learning_rate = 0.5;
  expected.momentum = 0.9;
  expected.plain_gradients = true;
  expected.replicated = true;
  expected.initial = {.method = CalibrationMethod::kMse};
  EXPECT_EQ(LearnedOf("--learned-rate 0.5 --learned-momentum 0.9 --learned-plain --learned-replicated "
                      "--learned-initial mse"),
            expected);
  expected = {};
  expected.optimizer = LearnedOptimizer::kAdam;
  expected.learning_rate = 0.001;
  expected.spec.type = {.bits = 4, .is_signed = false};
  expected.spec.scheme = QuantScheme::kAffine;
  expected.spec.granularity = QuantGranularity::kPerChannel;
  expected.initial = {.method = CalibrationMethod::kMinMax};
  EXPECT_EQ(LearnedOf("--learned-optimizer adam --dtype uint4 --affine --channel-axis 0"), expected);
}

TEST(SessionOptionsTest, TheRulesSpecIsForEveryObserver) {
  const SessionConfig config = Decoded("--observer minmax --dtype int4 --narrow --preset tensorrt");
  QuantSpec expected;
  expected.type.bits = 4;
  expected.narrow_range = true;
  expected.preset = QuantPreset::kTensorrt;
  EXPECT_EQ(config.rules.rules().at(0).quant_spec, expected);
  EXPECT_EQ(config.rules.rules()[0].observer->kind, ObserverKind::kMinMax);
  EXPECT_EQ(Decoded("--dtype uint8").rules.rules().at(0).observer, ObserverConfig());
}

TEST(SessionOptionsTest, OtherObservers) {
  const ObserverConfig ema =
      *Decoded("--observer ema --ema-convention pytorch --channel-axis -1").rules.rules()[0].observer;
  EXPECT_EQ(ema,
            (ObserverConfig{.kind = ObserverKind::kEma, .channel_axis = -1, .ema = {EmaConvention::kPytorch, 0.01}}));
  const ObserverConfig weighted = *Decoded("--observer ema --ema-weight 0.5").rules.rules()[0].observer;
  EXPECT_EQ(weighted.ema, (EmaOptions{EmaConvention::kMegengine, 0.5}));
  const ObserverConfig reference = *Decoded(
                                        "--observer reference_histogram --reference-rule mxnet --reference-bins 65 "
                                        "--reference-max-bins 129")
                                        .rules.rules()[0]
                                        .observer;
  EXPECT_EQ(reference.reference, (ReferenceOptions{ReferenceRule::kMxnet, 65, 129}));
  EXPECT_EQ(Decoded("--channel-axis 2").rules.rules()[0].observer->channel_axis, 2);
}

TEST(SessionOptionsTest, SynchronousSteps) {
  EXPECT_FALSE(Decoded("--observer ema").synchronous.has_value());
  EXPECT_EQ(Decoded("--world-size 8").synchronous, (SynchronousOptions{.world_size = 8}));
  EXPECT_EQ(Decoded("--world-size 2 --straggler close_partial --step-deadline 1m30s --step-window 4").synchronous,
            (SynchronousOptions{2, StragglerPolicy::kClosePartial, absl::Seconds(90), 4}));
  EXPECT_EQ(Decoded("--world-size 2 --straggler fail --step-deadline 500ms").synchronous,
            (SynchronousOptions{2, StragglerPolicy::kFail, absl::Milliseconds(500), 16}));
}

TEST(SessionOptionsTest, WhatContradictsItselfIsRefused) {
  ExpectRefused("--observer mean", "passive or learned");
  ExpectRefused("--observer minmax --learned-rate 1", "needs --observer learned");
  ExpectRefused("--observer learned --ema-weight 0.5", "needs --observer ema");
  ExpectRefused("--learned-rate 1", "--observer");
  ExpectRefused("--observer learned --learned-optimizer lion", "adam");
  ExpectRefused("--observer learned --learned-initial best", "minmax");
  ExpectRefused("--dtype int99", "int32");
  ExpectRefused("--config a --observer learned", "--config");
  ExpectRefused("--config a --dtype int4", "--config");
  ExpectRefused("--config a --affine", "--config");
  ExpectRefused("--config a --world-size 2", "--config");
  ExpectRefused("--world-size 0", "--world-size");
  ExpectRefused("--world-size 65537", "--world-size");
  ExpectRefused("--straggler fail", "--world-size");
  ExpectRefused("--world-size 2 --straggler drop", "close_partial");
  ExpectRefused("--world-size 2 --straggler fail", "needs --step-deadline");
  ExpectRefused("--world-size 2 --step-deadline 1s", "needs --straggler fail or close_partial");
  ExpectRefused("--world-size 2 --straggler fail --step-deadline 0s", "at least a millisecond");
  ExpectRefused("--world-size 2 --straggler fail --step-deadline soon", "such as 500ms");
  ExpectRefused("--world-size 2 --straggler fail --step-deadline inf", "such as 500ms");
  ExpectRefused("--world-size 2 --step-window 257", "--step-window");
}

}  // namespace
}  // namespace calib::cli
