// Options of observers in a session's config.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

using ::testing::HasSubstr;

v1::SessionConfig WithObserver(const v1::ObserverConfig& observer) {
  v1::SessionConfig config;
  v1::LayerRule* const rule = config.add_rules();
  rule->set_pattern("*");
  *rule->mutable_observer() = observer;
  return config;
}

absl::StatusOr<ObserverConfig> Decode(const v1::ObserverConfig& observer) {
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(WithObserver(observer));
  if (!config.ok()) return config.status();
  return *config->rules.rules().at(0).observer;
}

v1::ObserverConfig Ema(v1::EmaConvention convention) {
  v1::ObserverConfig observer;
  observer.set_kind(v1::OBSERVER_KIND_EMA);
  observer.mutable_ema()->set_convention(convention);
  return observer;
}

v1::ObserverConfig Reference(v1::ReferenceRule rule) {
  v1::ObserverConfig observer;
  observer.set_kind(v1::OBSERVER_KIND_REFERENCE_HISTOGRAM);
  observer.mutable_reference_histogram()->set_rule(rule);
  return observer;
}

v1::ObserverConfig Passive() {
  v1::ObserverConfig observer;
  observer.set_kind(v1::OBSERVER_KIND_PASSIVE);
  return observer;
}

TEST(ObserverCodecTest, EveryObserverSurvivesTheRoundTrip) {
  std::vector<ObserverConfig> observers;
  for (const EmaOptions& ema : {EmaOptions{EmaConvention::kMegengine, 0.9}, EmaOptions{EmaConvention::kMegengine, 0},
                                EmaOptions{EmaConvention::kPytorch, 0.01}, EmaOptions{EmaConvention::kPytorch, 1}}) {
    observers.push_back({.kind = ObserverKind::kEma, .ema = ema});
    observers.push_back({.kind = ObserverKind::kEma, .channel_axis = -2, .ema = ema});
  }
  for (const ReferenceRule rule :
       {ReferenceRule::kMegengine, ReferenceRule::kPytorch, ReferenceRule::kPytorchCurrent, ReferenceRule::kMxnet}) {
    observers.push_back({.kind = ObserverKind::kReferenceHistogram, .reference = {rule, 0, 0}});
    observers.push_back({.kind = ObserverKind::kReferenceHistogram, .reference = {rule, 65, 1 << 20}});
  }
  observers.push_back({.kind = ObserverKind::kPassive});
  for (const ObserverConfig& observer : observers) {
    const v1::ObserverConfig message = EncodeObserverConfig(observer);
    EXPECT_EQ(std::string("OBSERVER_KIND_"), v1::ObserverKind_Name(message.kind()).substr(0, 14));
    const absl::StatusOr<ObserverConfig> decoded = Decode(message);
    ASSERT_TRUE(decoded.ok()) << decoded.status() << message.ShortDebugString();
    EXPECT_EQ(*decoded, observer) << message.ShortDebugString();
    EXPECT_EQ(EncodeObserverConfig(*decoded).SerializeAsString(), message.SerializeAsString());
  }
}

TEST(ObserverCodecTest, WeightsHaveTheFrameworksDefaults) {
  EXPECT_EQ(Decode(Ema(v1::EMA_CONVENTION_MEGENGINE))->ema, (EmaOptions{EmaConvention::kMegengine, 0.9}));
  EXPECT_EQ(Decode(Ema(v1::EMA_CONVENTION_PYTORCH))->ema, (EmaOptions{EmaConvention::kPytorch, 0.01}));
}

struct MalformedObserver {
  std::string field;    // after config.rules[0].observer.
  std::string message;  // a part of it
  v1::ObserverConfig observer;
  std::function<void(v1::ObserverConfig*)> spoil = [](v1::ObserverConfig*) {};
};

TEST(ObserverCodecTest, MalformedOptionsAreNamed) {
  const auto weight = [](double value) {
    return [value](v1::ObserverConfig* o) { o->mutable_ema()->set_weight(value); };
  };
  const auto reference_options = [](auto* o) { o->mutable_reference_histogram()->set_bins(9); };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const v1::ObserverConfig megengine = Ema(v1::EMA_CONVENTION_MEGENGINE);
  const v1::ObserverConfig pytorch = Ema(v1::EMA_CONVENTION_PYTORCH);
  const v1::ObserverConfig mxnet = Reference(v1::REFERENCE_RULE_MXNET);
  v1::ObserverConfig minmax;
  minmax.set_kind(v1::OBSERVER_KIND_MINMAX);
  const std::vector<MalformedObserver> cases = {
      {"kind", "number 7", minmax, [](auto* o) { o->set_kind(static_cast<v1::ObserverKind>(7)); }},
      {"ema.convention", "not set", Ema(v1::EMA_CONVENTION_UNSPECIFIED)},
      {"ema.convention", "not set", pytorch, [](auto* o) { o->clear_ema(); }},
      {"ema.convention", "unknown", Ema(static_cast<v1::EmaConvention>(3))},
      {"ema.weight", "old value is 1;", megengine, weight(1)},
      {"ema.weight", "old value is -0.1;", megengine, weight(-0.1)},
      {"ema.weight", "nan", megengine, weight(kNan)},
      {"ema.weight", "old value is 1;", megengine, weight(0.99999999999)},  // 1 in float32
      {"ema.weight", "new value is 0;", pytorch, weight(0)},
      {"ema.weight", "new value is 1.5;", pytorch, weight(1.5)},
      {"ema.weight", "nan", pytorch, weight(kNan)},
      {"ema", "only for OBSERVER_KIND_EMA", minmax, weight(0.5)},
      {"ema", "only for OBSERVER_KIND_EMA", mxnet, weight(0.5)},
      {"ema", "only for OBSERVER_KIND_EMA", Passive(), weight(0.5)},
      {"reference_histogram", "only for OBSERVER_KIND_REFERENCE_HISTOGRAM", minmax, reference_options},
      {"reference_histogram", "only for OBSERVER_KIND_REFERENCE_HISTOGRAM", pytorch, reference_options},
      {"reference_histogram", "only for OBSERVER_KIND_REFERENCE_HISTOGRAM", Passive(), reference_options},
      {"reference_histogram.rule", "not set", Reference(v1::REFERENCE_RULE_UNSPECIFIED)},
      {"reference_histogram.rule", "unknown", Reference(static_cast<v1::ReferenceRule>(5))},
      {"reference_histogram", "bins is 1;", Reference(v1::REFERENCE_RULE_PYTORCH),
       [](auto* o) { o->mutable_reference_histogram()->set_bins(1); }},
      {"reference_histogram", "bins is 65537;", Reference(v1::REFERENCE_RULE_PYTORCH),
       [](auto* o) { o->mutable_reference_histogram()->set_bins(65537); }},
      {"reference_histogram", "odd", mxnet, [](auto* o) { o->mutable_reference_histogram()->set_bins(8000); }},
      {"reference_histogram", "max_bins is 8000;", mxnet,
       [](auto* o) { o->mutable_reference_histogram()->set_max_bins(8000); }},
      {"reference_histogram", "max_bins is 4294967295;", mxnet,
       [](auto* o) { o->mutable_reference_histogram()->set_max_bins(0xffffffffu); }},
      {"channel_axis", "reference_histogram", mxnet, [](auto* o) { o->set_channel_axis(0); }},
      {"channel_axis", "passive", Passive(), [](auto* o) { o->set_channel_axis(0); }},
      {"channel_axis", "64 is", pytorch, [](auto* o) { o->set_channel_axis(64); }},
  };
  for (const MalformedObserver& malformed : cases) {
    v1::ObserverConfig observer = malformed.observer;
    malformed.spoil(&observer);
    const absl::Status status = Decode(observer).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << observer.ShortDebugString() << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
    const auto info = GetErrorInfo(status);
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->metadata().at("field"), "config.rules[0].observer." + malformed.field);
  }
}

}  // namespace
}  // namespace calib
