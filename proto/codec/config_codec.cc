#include "proto/codec/config_codec.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/quantization_codec.h"
#include "proto/codec/utf8.h"

namespace calib {
namespace {

// A tensor of this many dimensions is the most that a channel axis can point into.
constexpr int kMaxDimensions = 64;

absl::StatusOr<ObserverConfig> DecodeObserver(const v1::ObserverConfig& message, int mantissa_bits) {
  ObserverConfig observer;
  observer.mantissa_bits = mantissa_bits;
  switch (message.kind()) {
    case v1::OBSERVER_KIND_HISTOGRAM:
      observer.kind = ObserverKind::kHistogram;
      break;
    case v1::OBSERVER_KIND_MINMAX:
      observer.kind = ObserverKind::kMinMax;
      break;
    case v1::OBSERVER_KIND_UNSPECIFIED:
      return InvalidField("kind", "not set; use OBSERVER_KIND_HISTOGRAM or OBSERVER_KIND_MINMAX");
    default:
      return InvalidField("kind", absl::StrCat("no observer has the number ", static_cast<int>(message.kind()),
                                               "; the server may be older than the client"));
  }
  if (message.has_channel_axis()) {
    if (message.channel_axis() < -kMaxDimensions || message.channel_axis() >= kMaxDimensions) {
      return InvalidField("channel_axis", absl::StrCat(message.channel_axis(), " is not an axis; use ", -kMaxDimensions,
                                                       " to ", kMaxDimensions - 1));
    }
    observer.channel_axis = message.channel_axis();
  }
  return observer;
}

absl::StatusOr<ObserverRules::Rule> DecodeRule(const v1::LayerRule& message, int mantissa_bits) {
  if (absl::Status status = CheckPattern("pattern", message.pattern()); !status.ok()) return status;
  ObserverRules::Rule rule;
  rule.pattern = message.pattern();
  switch (message.action_case()) {
    case v1::LayerRule::kObserver: {
      absl::StatusOr<ObserverConfig> observer = DecodeObserver(message.observer(), mantissa_bits);
      if (!observer.ok()) return InField("observer", observer.status());
      rule.observer = *observer;
      break;
    }
    case v1::LayerRule::kSkip:
      if (!message.skip()) return InvalidField("skip", "must be true; to observe the layer, set `observer` instead");
      break;
    case v1::LayerRule::ACTION_NOT_SET:
      return InvalidField("action", "not set; set `observer` or `skip`");
  }
  absl::StatusOr<QuantSpec> quant_spec = DecodeQuantSpec(message.quant_spec());
  if (!quant_spec.ok()) return InField("quant_spec", quant_spec.status());
  rule.quant_spec = *quant_spec;
  return rule;
}

absl::StatusOr<SessionConfig> DecodeFields(const v1::SessionConfig& message) {
  SessionConfig config;
  if (message.mantissa_bits() != 0) {
    if (message.mantissa_bits() < uint32_t{Bfloat16Histogram::kMinMantissaBits} ||
        message.mantissa_bits() > uint32_t{Bfloat16Histogram::kMaxMantissaBits}) {
      return InvalidField("mantissa_bits",
                          absl::StrCat(message.mantissa_bits(), " is not a resolution; use 4 to 7, or 0 for 7"));
    }
    config.mantissa_bits = static_cast<int>(message.mantissa_bits());
  }
  if (message.rules_size() > kMaxRules) {
    return InvalidField("rules", absl::StrCat(message.rules_size(), " rules are more than the ", kMaxRules,
                                              " that a session may have; join some with wildcards"));
  }
  std::vector<ObserverRules::Rule> rules;
  for (int i = 0; i < message.rules_size(); ++i) {
    absl::StatusOr<ObserverRules::Rule> rule = DecodeRule(message.rules(i), config.mantissa_bits);
    if (!rule.ok()) return InField(absl::StrCat("rules[", i, "]"), rule.status());
    rules.push_back(*std::move(rule));
  }
  if (rules.empty()) {
    ObserverConfig histogram;
    histogram.mantissa_bits = config.mantissa_bits;
    rules.push_back({"*", histogram, QuantSpec{}});
  }
  config.rules = ObserverRules(std::move(rules));
  return config;
}

}  // namespace

absl::StatusOr<SessionConfig> DecodeSessionConfig(const v1::SessionConfig& config) {
  absl::StatusOr<SessionConfig> decoded = DecodeFields(config);
  if (!decoded.ok()) return InField("config", decoded.status());
  return decoded;
}

v1::SessionConfig EncodeSessionConfig(const SessionConfig& config) {
  v1::SessionConfig message;
  message.set_mantissa_bits(config.mantissa_bits);
  for (const ObserverRules::Rule& rule : config.rules.rules()) {
    v1::LayerRule* const encoded = message.add_rules();
    encoded->set_pattern(rule.pattern);
    if (rule.observer.has_value()) {
      *encoded->mutable_observer() = EncodeObserverConfig(*rule.observer);
    } else {
      encoded->set_skip(true);
    }
    *encoded->mutable_quant_spec() = EncodeQuantSpec(rule.quant_spec);
  }
  return message;
}

v1::ObserverConfig EncodeObserverConfig(const ObserverConfig& config) {
  v1::ObserverConfig message;
  message.set_kind(config.kind == ObserverKind::kHistogram ? v1::OBSERVER_KIND_HISTOGRAM : v1::OBSERVER_KIND_MINMAX);
  if (config.channel_axis.has_value()) message.set_channel_axis(*config.channel_axis);
  return message;
}

absl::Status CheckPattern(absl::string_view field, absl::string_view pattern) {
  if (pattern.empty()) return InvalidField(field, "empty; use * for every layer");
  if (pattern.size() > kMaxPatternBytes) {
    return InvalidField(
        field, absl::StrCat(pattern.size(), " bytes are more than the ", kMaxPatternBytes, " that a pattern may have"));
  }
  if (!IsValidUtf8(pattern)) return InvalidField(field, "not UTF-8");
  return absl::OkStatus();
}

}  // namespace calib
