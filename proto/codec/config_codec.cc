#include "proto/codec/config_codec.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/codec/error.h"
#include "proto/codec/observer_codec.h"
#include "proto/codec/quantization_codec.h"
#include "proto/codec/utf8.h"

namespace calib {
namespace {

static_assert(static_cast<int>(StragglerPolicy::kClosePartial) + 1 == v1::STRAGGLER_POLICY_CLOSE_PARTIAL);

constexpr absl::Duration kLeastDeadline = absl::Milliseconds(1);

absl::StatusOr<ObserverRules::Rule> DecodeRule(const v1::LayerRule& message, int mantissa_bits) {
  if (absl::Status status = CheckPattern("pattern", message.pattern()); !status.ok()) return status;
  ObserverRules::Rule rule;
  rule.pattern = message.pattern();
  absl::StatusOr<QuantSpec> quant_spec = DecodeQuantSpec(message.quant_spec());
  if (!quant_spec.ok()) return InField("quant_spec", quant_spec.status());
  rule.quant_spec = *quant_spec;
  switch (message.action_case()) {
    case v1::LayerRule::kObserver: {
      if (message.observer().kind() == v1::OBSERVER_KIND_LEARNED) {
        const absl::Status status = CheckLearnedSpec(rule.quant_spec);
        if (!status.ok()) return InField("quant_spec", MakeError(v1::ERROR_REASON_SPEC_INVALID, status));
      }
      absl::StatusOr<ObserverConfig> observer =
          DecodeObserverConfig(message.observer(), rule.quant_spec, mantissa_bits);
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
  return rule;
}

absl::StatusOr<absl::Duration> DecodeDeadline(const google::protobuf::Duration& message) {
  constexpr int64_t kMostSeconds = 315576000000;  // what a Duration may have
  constexpr int32_t kMostNanoseconds = 999999999;
  if (message.seconds() < 0 || message.seconds() > kMostSeconds || message.nanos() < 0 ||
      message.nanos() > kMostNanoseconds) {
    return InvalidField("deadline", absl::StrCat(message.seconds(), " seconds and ", message.nanos(),
                                                 " nanoseconds are not a time of at least a millisecond"));
  }
  const absl::Duration deadline = absl::Seconds(message.seconds()) + absl::Nanoseconds(message.nanos());
  if (deadline < kLeastDeadline) {
    return InvalidField("deadline",
                        absl::StrCat(absl::FormatDuration(deadline), " is less than a millisecond; give more"));
  }
  return deadline;
}

absl::StatusOr<SynchronousOptions> DecodeSynchronous(const v1::SynchronousOptions& message) {
  SynchronousOptions options;
  options.world_size = message.world_size();
  if (options.world_size < 1 || options.world_size > kMaxWorldSize) {
    return InvalidField("world_size", absl::StrCat(options.world_size, " ranks are not 1 to ", kMaxWorldSize));
  }
  if (!v1::StragglerPolicy_IsValid(message.straggler_policy())) {
    return InvalidField("straggler_policy",
                        absl::StrCat("no policy has the number ", static_cast<int>(message.straggler_policy()),
                                     "; the server may be older than the client"));
  }
  if (message.straggler_policy() != v1::STRAGGLER_POLICY_UNSPECIFIED) {
    options.straggler_policy = static_cast<StragglerPolicy>(message.straggler_policy() - 1);
  }
  const bool waits = options.straggler_policy == StragglerPolicy::kWait;
  if (waits && message.has_deadline()) {
    return InvalidField("deadline", "not for STRAGGLER_POLICY_WAIT; leave it out");
  }
  if (!waits) {
    const absl::StatusOr<absl::Duration> deadline = DecodeDeadline(message.deadline());
    if (!deadline.ok()) return deadline.status();
    options.deadline = *deadline;
  }
  if (message.window() > kMaxStepWindow) {
    return InvalidField("window", absl::StrCat(message.window(), " open steps are not 1 to ", kMaxStepWindow,
                                               ", or 0 for ", options.window));
  }
  if (message.window() != 0) options.window = message.window();
  return options;
}

// Learned observers take nothing but synchronous steps.
absl::Status CheckLearnedRules(const SessionConfig& config) {
  if (config.synchronous.has_value()) return absl::OkStatus();
  const std::vector<ObserverRules::Rule>& rules = config.rules.rules();
  for (size_t i = 0; i < rules.size(); ++i) {
    if (!rules[i].observer.has_value() || rules[i].observer->kind != ObserverKind::kLearned) continue;
    return InvalidField(absl::StrCat("rules[", i, "].observer.kind"),
                        "OBSERVER_KIND_LEARNED learns in synchronous steps, which the session does not have; set "
                        "`synchronous`");
  }
  return absl::OkStatus();
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
  if (message.has_synchronous()) {
    absl::StatusOr<SynchronousOptions> synchronous = DecodeSynchronous(message.synchronous());
    if (!synchronous.ok()) return InField("synchronous", synchronous.status());
    config.synchronous = *synchronous;
  }
  if (absl::Status status = CheckLearnedRules(config); !status.ok()) return status;
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
  if (config.synchronous.has_value()) *message.mutable_synchronous() = EncodeSynchronousOptions(*config.synchronous);
  return message;
}

v1::SynchronousOptions EncodeSynchronousOptions(const SynchronousOptions& options) {
  v1::SynchronousOptions message;
  message.set_world_size(options.world_size);
  message.set_straggler_policy(static_cast<v1::StragglerPolicy>(static_cast<int>(options.straggler_policy) + 1));
  if (options.straggler_policy != StragglerPolicy::kWait) {
    absl::Duration rest;
    message.mutable_deadline()->set_seconds(absl::IDivDuration(options.deadline, absl::Seconds(1), &rest));
    message.mutable_deadline()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  }
  message.set_window(options.window);
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
