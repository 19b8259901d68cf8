// Learned observers: their options, and what they have learned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "quant/learned_observer.h"
#include "tests/codec/random_statistics.h"

namespace calib {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

v1::SessionConfig LearnedConfig(v1::LearnedOptimizer optimizer = v1::LEARNED_OPTIMIZER_SGD) {
  v1::SessionConfig config;
  config.mutable_synchronous()->set_world_size(2);
  v1::LayerRule* const rule = config.add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_LEARNED);
  rule->mutable_observer()->mutable_learned()->set_optimizer(optimizer);
  return config;
}

ObserverConfig DecodeLearnedObserver(const v1::SessionConfig& message) {
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(message);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config->rules.rules().at(0).observer : ObserverConfig();
}

TEST(LearnedCodecTest, NothingSetMeansEveryDefault) {
  const ObserverConfig sgd = DecodeLearnedObserver(LearnedConfig());
  EXPECT_EQ(sgd.kind, ObserverKind::kLearned);
  ASSERT_TRUE(sgd.learned.has_value());
  EXPECT_EQ(*sgd.learned, LearnedOptions());
  EXPECT_EQ(sgd.learned->learning_rate, 0.01);
  EXPECT_EQ(sgd.learned->initial.method, CalibrationMethod::kLsq);
  v1::SessionConfig message = LearnedConfig(v1::LEARNED_OPTIMIZER_ADAM);
  message.mutable_rules(0)->mutable_quant_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  const ObserverConfig adam = DecodeLearnedObserver(message);
  ASSERT_TRUE(adam.learned.has_value());
  EXPECT_EQ(adam.learned->optimizer, LearnedOptimizer::kAdam);
  EXPECT_EQ(adam.learned->learning_rate, 0.001);
  EXPECT_EQ(adam.learned->initial.method, CalibrationMethod::kMinMax);
  EXPECT_EQ(adam.learned->spec.scheme, QuantScheme::kAffine);
}

TEST(LearnedCodecTest, TheQuantizerIsTheRules) {
  v1::SessionConfig message = LearnedConfig();
  message.mutable_rules(0)->mutable_quant_spec()->set_type(v1::QUANT_TYPE_INT4);
  message.mutable_rules(0)->mutable_quant_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  ObserverConfig observer = DecodeLearnedObserver(message);
  ASSERT_TRUE(observer.learned.has_value());
  EXPECT_EQ(observer.learned->spec.type.bits, 4);
  EXPECT_EQ(observer.learned->spec.granularity, QuantGranularity::kPerTensor) << "no channel axis";
  message.mutable_rules(0)->mutable_quant_spec()->clear_granularity();
  message.mutable_rules(0)->mutable_observer()->set_channel_axis(0);
  observer = DecodeLearnedObserver(message);
  ASSERT_TRUE(observer.learned.has_value());
  EXPECT_EQ(observer.learned->spec.granularity, QuantGranularity::kPerChannel);
}

TEST(LearnedCodecTest, RandomOptionsSurviveTheRoundTrip) {
  std::mt19937_64 rng(31);
  const auto share = [&rng] { return std::uniform_real_distribution<double>(0, 0.999)(rng); };
  for (int round = 0; round < 500; ++round) {
    LearnedOptions options;
    options.spec.scheme = rng() % 2 == 0 ? QuantScheme::kAffine : QuantScheme::kSymmetric;
    options.spec.type = {.bits = 2 + static_cast<int>(rng() % 15), .is_signed = rng() % 2 == 0};
    options.learning_rate = std::exp(20 * share() - 15);
    if (rng() % 2 == 0) {
      options.momentum = rng() % 3 == 0 ? 0 : share();
    } else {
      options.optimizer = LearnedOptimizer::kAdam;
      options.beta1 = share();
      options.beta2 = share();
      options.epsilon = std::exp(10 * share() - 20);
    }
    options.plain_gradients = rng() % 2 == 0;
    options.replicated = rng() % 2 == 0;
    options.initial = DefaultLearnedInitial(options.spec.scheme);
    if (rng() % 3 == 0) options.initial = {.method = CalibrationMethod::kPercentile, .percentile = 1 + 99 * share()};
    if (rng() % 3 == 0) options.initial = {.method = CalibrationMethod::kMse};
    ObserverRules::Rule rule{"layer.*", ObserverConfig{.kind = ObserverKind::kLearned}, options.spec};
    if (rng() % 2 == 0) {
      rule.observer->channel_axis = static_cast<int>(rng() % 5) - 2;
      options.spec.granularity = QuantGranularity::kPerChannel;
    }
    rule.observer->learned = options;
    SessionConfig config;
    config.rules = ObserverRules({rule});
    config.synchronous = SynchronousOptions{};
    const v1::SessionConfig message = EncodeSessionConfig(config);
    const absl::StatusOr<SessionConfig> decoded = DecodeSessionConfig(message);
    ASSERT_TRUE(decoded.ok()) << decoded.status() << message.ShortDebugString();
    EXPECT_EQ(*decoded, config) << message.ShortDebugString();
    EXPECT_EQ(EncodeSessionConfig(*decoded).SerializeAsString(), message.SerializeAsString());
  }
}

struct MalformedLearned {
  v1::ErrorReason reason;
  std::string field;    // after config.rules[0]
  std::string message;  // a part of it
  std::function<void(v1::SessionConfig*)> spoil;
};

TEST(LearnedCodecTest, MalformedOptionsAreNamed) {
  constexpr auto kField = v1::ERROR_REASON_INVALID_FIELD, kSpec = v1::ERROR_REASON_SPEC_INVALID;
  const auto options = [](v1::SessionConfig* c) { return c->mutable_rules(0)->mutable_observer()->mutable_learned(); };
  const auto spec = [](v1::SessionConfig* c) { return c->mutable_rules(0)->mutable_quant_spec(); };
  const auto adam = [&](v1::SessionConfig* c) {
    options(c)->set_optimizer(v1::LEARNED_OPTIMIZER_ADAM);
    return options(c);
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<MalformedLearned> cases = {
      {kField, ".observer.kind", "`synchronous`", [](auto* c) { c->clear_synchronous(); }},
      {kField, ".observer.learned.optimizer", "not set", [&](auto* c) { options(c)->clear_optimizer(); }},
      {kField, ".observer.learned.optimizer", "unknown",
       [&](auto* c) { options(c)->set_optimizer(static_cast<v1::LearnedOptimizer>(3)); }},
      {kField, ".observer.learned.optimizer", "not set",
       [](auto* c) { c->mutable_rules(0)->mutable_observer()->clear_learned(); }},
      {kField, ".observer.learned", "only for OBSERVER_KIND_LEARNED",
       [](auto* c) { c->mutable_rules(0)->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM); }},
      {kField, ".observer.learned", "learning_rate is 0;", [&](auto* c) { options(c)->set_learning_rate(0); }},
      {kField, ".observer.learned", "learning_rate is nan;", [&](auto* c) { options(c)->set_learning_rate(kNan); }},
      {kField, ".observer.learned", "momentum is 1;", [&](auto* c) { options(c)->set_momentum(1); }},
      {kField, ".observer.learned", "beta1 is -1;", [&](auto* c) { adam(c)->set_beta1(-1); }},
      {kField, ".observer.learned", "beta2 is 1;", [&](auto* c) { adam(c)->set_beta2(1); }},
      {kField, ".observer.learned", "epsilon is 0;", [&](auto* c) { adam(c)->set_epsilon(0); }},
      {kField, ".observer.learned.momentum", "ADAM", [&](auto* c) { adam(c)->set_momentum(0); }},
      {kField, ".observer.learned.beta1", "SGD", [&](auto* c) { options(c)->set_beta1(0.9); }},
      {kField, ".observer.learned.beta2", "SGD", [&](auto* c) { options(c)->set_beta2(0.9); }},
      {kField, ".observer.learned.epsilon", "SGD", [&](auto* c) { options(c)->set_epsilon(1); }},
      {kField, ".observer.learned.initial.percentile", "not a parameter",
       [&](auto* c) { options(c)->mutable_initial()->set_percentile(99); }},
      {kField, ".observer.learned.initial", "symmetric",
       [&](auto* c) {
         options(c)->mutable_initial()->set_method(v1::CALIBRATION_METHOD_LSQ);
         spec(c)->set_scheme(v1::QUANT_SCHEME_AFFINE);
       }},
      {kSpec, ".quant_spec", "fp8_e4m3", [&](auto* c) { spec(c)->set_type(v1::QUANT_TYPE_FP8_E4M3); }},
      {kSpec, ".quant_spec", "auto8", [&](auto* c) { spec(c)->set_type(v1::QUANT_TYPE_AUTO8); }},
      {kSpec, ".quant_spec", "power_of_two", [&](auto* c) { spec(c)->set_power_of_two_scale(true); }},
      {kSpec, ".quant_spec", "2^24", [&](auto* c) { spec(c)->set_type(v1::QUANT_TYPE_INT32); }},
      {kField, ".observer.channel_axis", "64 is",
       [](auto* c) { c->mutable_rules(0)->mutable_observer()->set_channel_axis(64); }},
  };
  for (const MalformedLearned& malformed : cases) {
    v1::SessionConfig config = LearnedConfig();
    malformed.spoil(&config);
    const absl::Status status = DecodeSessionConfig(config).status();
    EXPECT_EQ(GetReason(status), malformed.reason) << status << config.ShortDebugString();
    EXPECT_THAT(std::string(status.message()), StartsWith("config.rules[0]" + malformed.field + ": "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
  }
}

// A layer of two channels that began to learn, and has.
LayerStatistics LearnedLayer(LearnedOptimizer optimizer) {
  LearnedOptions options;
  options.optimizer = optimizer;
  options.momentum = 0.5;
  options.spec.scheme = QuantScheme::kAffine;
  options.initial.method = CalibrationMethod::kMinMax;
  LayerStatistics layer =
      test::Observe({.kind = ObserverKind::kLearned, .channel_axis = 1, .learned = options}, {1, -2, 3, 5}, 2);
  EXPECT_EQ(InitializeLearned(&layer), absl::OkStatus());
  for (int step = 0; step < 3; ++step) ApplyGradients(&layer, {{1.0, 2.0}, {-3.0, 40.0}}, 4);
  return layer;
}

TEST(LearnedCodecTest, StatesSurviveTheRoundTrip) {
  for (const LearnedOptimizer optimizer : {LearnedOptimizer::kSgd, LearnedOptimizer::kAdam}) {
    const LayerStatistics layer = LearnedLayer(optimizer);
    const LayerStatistics other = test::Observe({}, {1, 2, 3});
    v1::StatisticsBatch batch;
    ASSERT_TRUE(batch.ParseFromString(test::Encode({{0, other}, {6, layer}}).SerializeAsString()));
    EXPECT_EQ(batch.histogram_size(), 3);
    ASSERT_EQ(batch.learned_size(), 2);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(batch.learned(i).row(), static_cast<uint32_t>(i + 1));
      const absl::StatusOr<LearnedState> read = DecodeLearnedState(*layer.config().learned, batch.learned(i));
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(*read, *layer.channels()[i].learned);
      EXPECT_EQ(read->steps, 3u);
    }
    v1::LearnedState spoilt = batch.learned(0);
    spoilt.set_scale(0);
    EXPECT_EQ(DecodeLearnedState(*layer.config().learned, spoilt).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(LearnedCodecTest, UpdatesHaveStatisticsAlone) {
  StatisticsReader reader;
  const auto kind = [](uint32_t) { return ObserverKind::kLearned; };
  LayerStatistics layer = LearnedLayer(LearnedOptimizer::kAdam);
  EXPECT_EQ(GetReason(reader.Decode(test::Encode({{6, layer}}), kind)), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  EXPECT_THAT(reader.layers(), IsEmpty());

  const LearnedState learned = *layer.channels()[0].learned;
  const LayerStatistics update = test::Observe(layer.config(), {7, 8}, 2);
  v1::StatisticsBatch batch = test::Encode({{6, update}});
  EXPECT_EQ(batch.learned_size(), 0);
  ASSERT_TRUE(reader.Decode(batch, kind).ok());
  ASSERT_TRUE(CheckMergeRows(reader.layers().at(0), layer).ok());
  MergeRows(reader.layers()[0], &layer);
  EXPECT_EQ(layer.channels()[0].range.max, 7);
  EXPECT_EQ(layer.channels()[0].histogram->total(), 3u);
  EXPECT_EQ(*layer.channels()[0].learned, learned);

  batch.clear_histogram();
  EXPECT_EQ(GetReason(reader.Decode(batch, kind)), v1::ERROR_REASON_STATISTICS_INCONSISTENT);
  // As if the stream had taken the layer for a minmax one.
  ASSERT_TRUE(reader.Decode(batch, [](uint32_t) { return ObserverKind::kMinMax; }).ok());
  EXPECT_EQ(GetReason(CheckMergeRows(reader.layers()[0], layer)), v1::ERROR_REASON_OBSERVER_MISMATCH);
}

}  // namespace
}  // namespace calib
