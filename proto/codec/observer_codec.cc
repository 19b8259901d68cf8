#include "proto/codec/observer_codec.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/codec/error.h"
#include "proto/codec/quantization_codec.h"

namespace calib {
namespace {

// Messages' numbers are one more, since 0 is "not set".
static_assert(static_cast<int>(ObserverKind::kLearned) + 1 == v1::OBSERVER_KIND_LEARNED);
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

// Parameters of the other optimizer are refused too.
absl::Status CheckForeignParameters(const v1::LearnedOptions& message, LearnedOptimizer optimizer) {
  const bool adam = optimizer == LearnedOptimizer::kAdam;
  const struct {
    absl::string_view name;
    bool given;
    bool of_adam;
  } parameters[] = {{"momentum", message.has_momentum(), false},
                    {"beta1", message.has_beta1(), true},
                    {"beta2", message.has_beta2(), true},
                    {"epsilon", message.has_epsilon(), true}};
  for (const auto& parameter : parameters) {
    if (!parameter.given || parameter.of_adam == adam) continue;
    return InvalidField(absl::StrCat("learned.", parameter.name),
                        absl::StrCat("not a parameter of ", adam ? "LEARNED_OPTIMIZER_ADAM" : "LEARNED_OPTIMIZER_SGD",
                                     "; leave it out"));
  }
  return absl::OkStatus();
}

absl::Status DecodeLearned(const v1::ObserverConfig& message, const QuantSpec& quant_spec, ObserverConfig* observer) {
  if (observer->kind != ObserverKind::kLearned) {
    if (!message.has_learned()) return absl::OkStatus();
    return InvalidField("learned", "only for OBSERVER_KIND_LEARNED; leave it out");
  }
  const v1::LearnedOptions& given = message.learned();
  LearnedOptions options;
  switch (given.optimizer()) {
    case v1::LEARNED_OPTIMIZER_SGD:
      options.optimizer = LearnedOptimizer::kSgd;
      break;
    case v1::LEARNED_OPTIMIZER_ADAM:
      options.optimizer = LearnedOptimizer::kAdam;
      break;
    default:
      return InvalidField("learned.optimizer",
                          "not set or unknown; use LEARNED_OPTIMIZER_SGD or LEARNED_OPTIMIZER_ADAM");
  }
  if (absl::Status status = CheckForeignParameters(given, options.optimizer); !status.ok()) return status;
  options.learning_rate = given.has_learning_rate() ? given.learning_rate() : DefaultLearningRate(options.optimizer);
  if (given.has_momentum()) options.momentum = given.momentum();
  if (given.has_beta1()) options.beta1 = given.beta1();
  if (given.has_beta2()) options.beta2 = given.beta2();
  if (given.has_epsilon()) options.epsilon = given.epsilon();
  options.plain_gradients = given.plain_gradients();
  options.replicated = given.replicated();
  options.initial = DefaultLearnedInitial(quant_spec.scheme);
  if (given.has_initial()) {
    const absl::StatusOr<MethodSpec> initial = DecodeMethodSpec(given.initial());
    if (!initial.ok()) return InField("learned.initial", initial.status());
    options.initial = *initial;
  }
  options.spec = quant_spec;
  options.spec.granularity = message.has_channel_axis() ? QuantGranularity::kPerChannel : QuantGranularity::kPerTensor;
  if (const absl::Status status = CheckMethodForSpec(options.initial, quant_spec); !status.ok()) {
    return InvalidField("learned.initial", std::string(status.message()));
  }
  if (const absl::Status status = CheckLearnedOptions(options); !status.ok()) {
    return InvalidField("learned", std::string(status.message()));
  }
  observer->learned = options;
  return absl::OkStatus();
}

v1::LearnedOptions EncodeLearned(const LearnedOptions& options) {
  v1::LearnedOptions message;
  message.set_learning_rate(options.learning_rate);
  if (options.optimizer == LearnedOptimizer::kSgd) {
    message.set_optimizer(v1::LEARNED_OPTIMIZER_SGD);
    message.set_momentum(options.momentum);
  } else {
    message.set_optimizer(v1::LEARNED_OPTIMIZER_ADAM);
    message.set_beta1(options.beta1);
    message.set_beta2(options.beta2);
    message.set_epsilon(options.epsilon);
  }
  message.set_plain_gradients(options.plain_gradients);
  message.set_replicated(options.replicated);
  *message.mutable_initial() = EncodeMethodSpec(options.initial);
  return message;
}

}  // namespace

absl::StatusOr<ObserverConfig> DecodeObserverConfig(const v1::ObserverConfig& message, const QuantSpec& quant_spec,
                                                    int mantissa_bits) {
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
    case v1::OBSERVER_KIND_LEARNED:
      observer.kind = ObserverKind::kLearned;
      break;
    case v1::OBSERVER_KIND_UNSPECIFIED:
      return InvalidField("kind",
                          "not set; use OBSERVER_KIND_HISTOGRAM, _MINMAX, _EMA, _REFERENCE_HISTOGRAM, _PASSIVE or "
                          "_LEARNED");
    default:
      return InvalidField("kind", absl::StrCat("no observer has the number ", static_cast<int>(message.kind()),
                                               "; the server may be older than the client"));
  }
  if (absl::Status status = DecodeEma(message, &observer); !status.ok()) return status;
  if (absl::Status status = DecodeReference(message, &observer); !status.ok()) return status;
  if (absl::Status status = DecodeLearned(message, quant_spec, &observer); !status.ok()) return status;
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
  if (config.kind == ObserverKind::kLearned) *message.mutable_learned() = EncodeLearned(*config.learned);
  if (config.channel_axis.has_value()) message.set_channel_axis(*config.channel_axis);
  return message;
}

}  // namespace calib
