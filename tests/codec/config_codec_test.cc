#include "proto/codec/config_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "google/protobuf/util/message_differencer.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

using ::google::protobuf::util::MessageDifferencer;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Three good rules: an observer per tensor, one per channel, a skip.
v1::SessionConfig ThreeRules() {
  v1::SessionConfig config;
  v1::LayerRule* rule = config.add_rules();
  rule->set_pattern("head.*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_MINMAX);
  rule = config.add_rules();
  rule->set_pattern("*.weight");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
  rule->mutable_observer()->set_channel_axis(-1);
  rule->mutable_quant_spec()->set_type(v1::QUANT_TYPE_UINT4);
  rule->mutable_quant_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_CHANNEL);
  rule = config.add_rules();
  rule->set_pattern("*.dropout");
  rule->set_skip(true);
  return config;
}

TEST(ConfigCodecTest, NothingSetMeansEveryDefault) {
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig({});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, SessionConfig{});
  EXPECT_EQ(config->mantissa_bits, 7);
  ASSERT_EQ(config->rules.rules().size(), 1u);
  EXPECT_EQ(config->rules.rules()[0].pattern, "*");
  EXPECT_EQ(config->rules.rules()[0].observer, ObserverConfig{});
}

TEST(ConfigCodecTest, DecodesRules) {
  v1::SessionConfig message = ThreeRules();
  message.set_mantissa_bits(5);
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(message);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->mantissa_bits, 5);
  const std::vector<ObserverRules::Rule>& rules = config->rules.rules();
  ASSERT_EQ(rules.size(), 3u);
  EXPECT_EQ(rules[0],
            (ObserverRules::Rule{"head.*", ObserverConfig{ObserverKind::kMinMax, std::nullopt, 5}, QuantSpec{}}));
  QuantSpec uint4;
  uint4.type = {.bits = 4, .is_signed = false};
  uint4.granularity = QuantGranularity::kPerChannel;
  EXPECT_EQ(rules[1], (ObserverRules::Rule{"*.weight", ObserverConfig{ObserverKind::kHistogram, -1, 5}, uint4}));
  EXPECT_EQ(rules[2], (ObserverRules::Rule{"*.dropout", std::nullopt, QuantSpec{}}));
}

TEST(ConfigCodecTest, DefaultRuleHasTheSessionsResolution) {
  v1::SessionConfig message;
  message.set_mantissa_bits(4);
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(message);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rules.rules().at(0).observer->mantissa_bits, 4);
}

TEST(ConfigCodecTest, EncodingIsCanonical) {
  v1::SessionConfig spelled_out;
  spelled_out.set_mantissa_bits(7);
  v1::LayerRule* const rule = spelled_out.add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
  rule->mutable_quant_spec()->set_type(v1::QUANT_TYPE_INT8);
  rule->mutable_quant_spec()->set_scheme(v1::QUANT_SCHEME_SYMMETRIC);
  rule->mutable_quant_spec()->set_preset(v1::QUANT_PRESET_PYTORCH);
  rule->mutable_quant_spec()->set_granularity(v1::QUANT_GRANULARITY_PER_TENSOR);
  const v1::SessionConfig canonical = EncodeSessionConfig(DecodeSessionConfig({}).value());
  EXPECT_TRUE(MessageDifferencer::Equals(canonical, spelled_out)) << canonical.DebugString();
  EXPECT_TRUE(MessageDifferencer::Equals(EncodeSessionConfig(DecodeSessionConfig(canonical).value()), canonical));
}

TEST(ConfigCodecTest, RandomConfigsSurviveTheRoundTrip) {
  std::mt19937_64 rng(3);
  const auto below = [&rng](int n) { return static_cast<int>(rng() % n); };
  for (int round = 0; round < 500; ++round) {
    SessionConfig config;
    config.mantissa_bits = 4 + below(4);
    std::vector<ObserverRules::Rule> rules(1 + below(5));
    for (ObserverRules::Rule& rule : rules) {
      rule.pattern = std::string(1 + below(512), static_cast<char>('a' + below(26)));
      if (below(4) != 0) {
        rule.observer = ObserverConfig{below(2) ? ObserverKind::kHistogram : ObserverKind::kMinMax, std::nullopt,
                                       config.mantissa_bits};
        if (below(2)) rule.observer->channel_axis = below(128) - 64;
      }
      rule.quant_spec.type = {.bits = 2 + below(15), .is_signed = below(2) != 0};
      rule.quant_spec.scheme = below(2) ? QuantScheme::kAffine : QuantScheme::kSymmetric;
      if (below(2)) rule.quant_spec.narrow_range = below(2) != 0;
    }
    config.rules = ObserverRules(rules);
    const v1::SessionConfig message = EncodeSessionConfig(config);
    const absl::StatusOr<SessionConfig> decoded = DecodeSessionConfig(message);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, config);
    EXPECT_EQ(EncodeSessionConfig(*decoded).SerializeAsString(), message.SerializeAsString());
  }
}

struct Malformed {
  std::string field;
  std::string message;  // a part of it
  std::function<void(v1::SessionConfig*)> spoil;
};

TEST(ConfigCodecTest, MalformedFieldsAreNamed) {
  const auto observer = [](v1::SessionConfig* c) { return c->mutable_rules(1)->mutable_observer(); };
  const std::vector<Malformed> cases = {
      {"config.mantissa_bits", "3 is", [](auto* c) { c->set_mantissa_bits(3); }},
      {"config.mantissa_bits", "8 is", [](auto* c) { c->set_mantissa_bits(8); }},
      {"config.mantissa_bits", "4294967295", [](auto* c) { c->set_mantissa_bits(0xffffffffu); }},
      {"config.rules[0].pattern", "empty", [](auto* c) { c->mutable_rules(0)->set_pattern(""); }},
      {"config.rules[1].pattern", "513 bytes",
       [](auto* c) { c->mutable_rules(1)->set_pattern(std::string(513, 'x')); }},
      {"config.rules[2].pattern", "UTF-8", [](auto* c) { c->mutable_rules(2)->set_pattern("a\xff"); }},
      {"config.rules[2].skip", "true", [](auto* c) { c->mutable_rules(2)->set_skip(false); }},
      {"config.rules[2].action", "observer", [](auto* c) { c->mutable_rules(2)->clear_action(); }},
      {"config.rules[1].observer.kind", "not set", [&](auto* c) { observer(c)->clear_kind(); }},
      {"config.rules[1].observer.kind", "77",
       [&](auto* c) { observer(c)->set_kind(static_cast<v1::ObserverKind>(77)); }},
      {"config.rules[1].observer.channel_axis", "64 is", [&](auto* c) { observer(c)->set_channel_axis(64); }},
      {"config.rules[1].observer.channel_axis", "-65 is", [&](auto* c) { observer(c)->set_channel_axis(-65); }},
      {"config.rules[1].quant_spec.type", "68",
       [](auto* c) { c->mutable_rules(1)->mutable_quant_spec()->set_type(static_cast<v1::QuantType>(68)); }},
  };
  for (const Malformed& malformed : cases) {
    v1::SessionConfig config = ThreeRules();
    malformed.spoil(&config);
    const absl::Status status = DecodeSessionConfig(config).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(malformed.field + ": "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), malformed.field);
  }
}

TEST(ConfigCodecTest, ContradictoryQuantSpecIsNamed) {
  v1::SessionConfig config = ThreeRules();
  config.mutable_rules(0)->mutable_quant_spec()->set_preset(v1::QUANT_PRESET_TENSORRT);
  config.mutable_rules(0)->mutable_quant_spec()->set_scheme(v1::QUANT_SCHEME_AFFINE);
  const absl::Status status = DecodeSessionConfig(config).status();
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_SPEC_INVALID);
  EXPECT_THAT(std::string(status.message()), StartsWith("config.rules[0].quant_spec: "));
}

TEST(ConfigCodecTest, NumberOfRulesIsBounded) {
  v1::SessionConfig config;
  for (int i = 0; i < kMaxRules; ++i) *config.add_rules() = ThreeRules().rules(2);
  EXPECT_TRUE(DecodeSessionConfig(config).ok());
  *config.add_rules() = ThreeRules().rules(2);
  const absl::Status status = DecodeSessionConfig(config).status();
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_THAT(std::string(status.message()), StartsWith("config.rules: 1001 rules"));
}

TEST(ConfigCodecTest, PatternsAreBoundedUtf8) {
  EXPECT_TRUE(CheckPattern("pattern", "*").ok());
  EXPECT_TRUE(CheckPattern("pattern", std::string(kMaxPatternBytes, 'x')).ok());
  EXPECT_EQ(CheckPattern("pattern", "").message(), "pattern: empty; use * for every layer");
  EXPECT_EQ(GetReason(CheckPattern("pattern", std::string(kMaxPatternBytes + 1, 'x'))), v1::ERROR_REASON_INVALID_FIELD);
}

}  // namespace
}  // namespace calib
