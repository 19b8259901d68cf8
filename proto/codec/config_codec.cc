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

// Messages' numbers are one more, since 0 is "not set".
static_assert(static_cast<int>(ObserverKind::kPassive) + 1 == v1::OBSERVER_KIND_PASSIVE);
static_assert(static_cast<int>(ReferenceRule::kMxnet) + 1 == v1::REFERENCE_RULE_MXNET);

// A tensor of this many dimensions is the most that a channel axis can point into.
constexpr int kMaxDimensions = 64;

// Parameters of another observer than the one asked for are refused, so that no wish is dropped silently.
absl::Status DecodeEma(const v1::ObserverConfig& message, ObserverConfig* observer) {
  if (observer->kind != ObserverKind::kEma) {
    return message.has_ema() ? InvalidField("ema", "only for OBSERVER_KIND_EMA; leave it out") : absl::OkStatus();
  }
  switch (message.ema().convention()) {
    case v1::EMA_CONVENTION_MEGENGINE:
      observer->ema = {EmaConvention::kMegengine, 0.9};
      break;
    case v1::EMA_CONVENTION_PYTORCH:
      observer->ema = {EmaConvention::kPytorch, 0.01};
      break;
    default:
      return InvalidField("ema.convention",
                          "not set or unknown; use EMA_CONVENTION_MEGENGINE (the weight is the old value's) or "
                          "EMA_CONVENTION_PYTORCH (the new one's)");
  }
  if (message.ema().has_weight()) observer->ema.weight = message.ema().weight();
  const absl::Status status = CheckEmaOptions(observer->ema);
  return status.ok() ? status : InvalidField("ema.weight", std::string(status.message()));
}

absl::Status DecodeReference(const v1::ObserverConfig& message, ObserverConfig* observer) {
  if (observer->kind != ObserverKind::kReferenceHistogram) {
    if (!message.has_reference_histogram()) return absl::OkStatus();
    return InvalidField("reference_histogram", "only for OBSERVER_KIND_REFERENCE_HISTOGRAM; leave it out");
  }
  const v1::ReferenceHistogramOptions& options = message.reference_histogram();
  if (!v1::ReferenceRule_IsValid(options.rule()) || options.rule() == v1::REFERENCE_RULE_UNSPECIFIED) {
    return InvalidField("reference_histogram.rule",
                        "not set or unknown; use REFERENCE_RULE_MEGENGINE, _PYTORCH, _PYTORCH_CURRENT or _MXNET");
  }
  observer->reference.rule = static_cast<ReferenceRule>(options.rule() - 1);
  observer->reference.bins = options.bins();
  observer->reference.max_bins = options.max_bins();
  const absl::Status status = CheckReferenceOptions(observer->reference);
  return status.ok() ? status : InvalidField("reference_histogram", std::string(status.message()));
}

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
    case v1::OBSERVER_KIND_EMA:
      observer.kind = ObserverKind::kEma;
      break;
    case v1::OBSERVER_KIND_REFERENCE_HISTOGRAM:
      observer.kind = ObserverKind::kReferenceHistogram;
      break;
    case v1::OBSERVER_KIND_PASSIVE:
      observer.kind = ObserverKind::kPassive;
      break;
    case v1::OBSERVER_KIND_UNSPECIFIED:
      return InvalidField("kind",
                          "not set; use OBSERVER_KIND_HISTOGRAM, _MINMAX, _EMA, _REFERENCE_HISTOGRAM or _PASSIVE");
    default:
      return InvalidField("kind", absl::StrCat("no observer has the number ", static_cast<int>(message.kind()),
                                               "; the server may be older than the client"));
  }
  if (absl::Status status = DecodeEma(message, &observer); !status.ok()) return status;
  if (absl::Status status = DecodeReference(message, &observer); !status.ok()) return status;
  if (message.has_channel_axis()) {
    if (message.channel_axis() < -kMaxDimensions || message.channel_axis() >= kMaxDimensions) {
      return InvalidField("channel_axis", absl::StrCat(message.channel_axis(), " is not an axis; use ", -kMaxDimensions,
                                                       " to ", kMaxDimensions - 1));
    }
    if (observer.kind == ObserverKind::kReferenceHistogram || observer.kind == ObserverKind::kPassive) {
      return InvalidField("channel_axis",
                          absl::StrCat("not for observer ", ObserverKindName(observer.kind), "; leave it out"));
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
  message.set_kind(static_cast<v1::ObserverKind>(static_cast<int>(config.kind) + 1));
  if (config.kind == ObserverKind::kEma) {
    message.mutable_ema()->set_convention(
        config.ema.convention == EmaConvention::kMegengine ? v1::EMA_CONVENTION_MEGENGINE : v1::EMA_CONVENTION_PYTORCH);
    message.mutable_ema()->set_weight(config.ema.weight);
  }
  if (config.kind == ObserverKind::kReferenceHistogram) {
    v1::ReferenceHistogramOptions* const options = message.mutable_reference_histogram();
    options->set_rule(static_cast<v1::ReferenceRule>(static_cast<int>(config.reference.rule) + 1));
    options->set_bins(config.reference.bins);
    options->set_max_bins(config.reference.max_bins);
  }
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
