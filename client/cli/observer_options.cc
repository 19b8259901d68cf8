#include "client/cli/observer_options.h"

#include <utility>

#include "proto/codec/observer_codec.h"
#include "proto/codec/quantization_codec.h"
#include "quant/method_spec.h"
#include "quant/observer_config.h"

namespace calib::cli {

ObserverOptions::ObserverOptions(CLI::App* command, CLI::Option* config)
    : config_option_(config),
      observer_option_(command->add_option("--observer", observer_,
                                           "What is collected of every layer: histogram, minmax, ema, "
                                           "reference_histogram, passive or learned")),
      type_option_(
          command->add_option("--dtype", type_,
                              "Type of the codes that qparams are for when a request says nothing, as those that "
                              "follow; see calibctl qparams --help")),
      spec_(command) {
  observer_option_->check(ParseValidator([](const std::string& name) { return ParseObserverKind(name); }))
      ->capture_default_str()
      ->type_name("O")
      ->excludes(config);
  type_option_->check(TypeValidator())->capture_default_str()->type_name("TYPE");
  AddEmaOptions(command);
  AddReferenceOptions(command);
  AddLearnedOptions(command);
  axis_option_ = command->add_option("--channel-axis", channel_axis_,
                                     "Observe each channel along this axis apart; negative counts from the end");
  axis_option_->type_name("A")->excludes(config);
}

template <typename Value>
CLI::Option* ObserverOptions::AddParameter(CLI::App* command, const char* name, Value* value, const char* description,
                                           const char* type_name) {
  return command->add_option(name, *value, description)->type_name(type_name)->needs(observer_option_);
}

void ObserverOptions::AddEmaOptions(CLI::App* command) {
  AddParameter(command, "--ema-convention", &ema_convention_,
               "For ema: megengine, whose weight is the old value's, or pytorch, whose weight is the new one's", "C")
      ->check(CLI::IsMember({"megengine", "pytorch"}).description(""))
      ->capture_default_str();
  ema_weight_option_ = AddParameter(command, "--ema-weight", &ema_weight_,
                                    "For ema; the default is 0.9 (megengine) or 0.01 (pytorch)", "W");
}

void ObserverOptions::AddReferenceOptions(CLI::App* command) {
  AddParameter(command, "--reference-rule", &reference_rule_,
               "For reference_histogram: megengine, pytorch (1.13), pytorch_current or mxnet", "R")
      ->check(ParseValidator([](const std::string& name) { return ParseReferenceRule(name); }))
      ->capture_default_str();
  AddParameter(command, "--reference-bins", &reference_bins_, "For reference_histogram; the default is the rule's own",
               "N");
  AddParameter(command, "--reference-max-bins", &reference_max_bins_,
               "For reference_histogram: what it may grow to; past it a step is refused", "N");
}

void ObserverOptions::AddLearnedOptions(CLI::App* command) {
  AddParameter(command, "--learned-optimizer", &learned_optimizer_, "For learned: sgd or adam", "O")
      ->check(CLI::IsMember({"sgd", "adam"}).description(""))
      ->capture_default_str();
  learned_rate_option_ = AddParameter(command, "--learned-rate", &learned_rate_,
                                      "For learned: the learning rate; the default is 0.01 (sgd) or 0.001 (adam)", "R");
  learned_momentum_option_ = AddParameter(command, "--learned-momentum", &learned_momentum_,
                                          "For learned by sgd: its momentum; the default is none", "M");
  AddParameter(command, "--learned-initial", &learned_initial_,
               "For learned: the method that reads the first statistics, to begin with; the default is lsq, with "
               "--affine minmax",
               "M")
      ->check(MethodValidator());
  command
      ->add_flag("--learned-plain", learned_plain_,
                 "For learned: take gradients as they come, not times 1 / sqrt(elements x qmax)")
      ->needs(observer_option_);
  command
      ->add_flag(
          "--learned-replicated", learned_replicated_,
          "For learned: all ranks hold the same tensor, such as a weight, so that elements are those of one rank")
      ->needs(observer_option_);
}

void ObserverOptions::Check(const CLI::App& command) const {
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    for (const auto& [prefix, owner] : {std::pair("--ema-", "ema"), std::pair("--reference-", "reference_histogram"),
                                        std::pair("--learned-", "learned")}) {
      if (option->count() > 0 && name.rfind(prefix, 0) == 0 && !observes(owner)) {
        throw CLI::ValidationError(name, std::string("needs --observer ") + owner);
      }
    }
  }
  if (config_option_->count() > 0 && quant_spec_given()) {
    throw CLI::ExcludesError(config_option_->get_name(), "--dtype and what else says how codes are made");
  }
}

v1::LearnedOptions ObserverOptions::Learned() const {
  v1::LearnedOptions learned;
  learned.set_optimizer(learned_optimizer_ == "adam" ? v1::LEARNED_OPTIMIZER_ADAM : v1::LEARNED_OPTIMIZER_SGD);
  if (learned_rate_option_->count() > 0) learned.set_learning_rate(learned_rate_);
  if (learned_momentum_option_->count() > 0) learned.set_momentum(learned_momentum_);
  learned.set_plain_gradients(learned_plain_);
  learned.set_replicated(learned_replicated_);
  if (!learned_initial_.empty()) {
    *learned.mutable_initial() = EncodeMethodSpec({.method = ParseMethod(learned_initial_).value()});
  }
  return learned;
}

v1::ObserverConfig ObserverOptions::Observer() const {
  v1::ObserverConfig observer;
  if (observes("learned")) {
    observer.set_kind(v1::OBSERVER_KIND_LEARNED);
    *observer.mutable_learned() = Learned();
  } else {
    ObserverConfig config;
    config.kind = ParseObserverKind(observer_).value();
    config.ema.convention = ema_convention_ == "pytorch" ? EmaConvention::kPytorch : EmaConvention::kMegengine;
    config.ema.weight = ema_weight_option_->count() > 0 ? ema_weight_ : ema_convention_ == "pytorch" ? 0.01 : 0.9;
    config.reference = {ParseReferenceRule(reference_rule_).value(), reference_bins_, reference_max_bins_};
    observer = EncodeObserverConfig(config);
  }
  if (axis_option_->count() > 0) observer.set_channel_axis(channel_axis_);
  return observer;
}

void ObserverOptions::AddRule(v1::SessionConfig* config) const {
  if (observer_option_->count() == 0 && axis_option_->count() == 0 && !quant_spec_given()) return;
  v1::LayerRule* const rule = config->add_rules();
  rule->set_pattern("*");
  *rule->mutable_observer() = Observer();
  if (quant_spec_given()) *rule->mutable_quant_spec() = spec_.Spec(type_);
}

}  // namespace calib::cli
