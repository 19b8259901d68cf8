#ifndef CALIB_CLIENT_CLI_OBSERVER_OPTIONS_H_
#define CALIB_CLIENT_CLI_OBSERVER_OPTIONS_H_

#include <cstdint>
#include <string>

#include "CLI/CLI.hpp"
#include "calib/v1/session.pb.h"
#include "client/cli/quantize_options.h"

namespace calib::cli {

// The options that say how every layer of a session is observed: --observer and what belongs to each kind,
// --channel-axis, and the rule's QuantSpec: --dtype and SpecOptions.
class ObserverOptions {
 public:
  // config: the option that stands for all of these, so that none can be given beside it.
  ObserverOptions(CLI::App* command, CLI::Option* config);
  ObserverOptions(const ObserverOptions&) = delete;
  ObserverOptions& operator=(const ObserverOptions&) = delete;

  // Throws CLI::ValidationError when a parameter of an observer was given and another is asked for, and
  // CLI::ExcludesError when something was given beside --config.
  void Check(const CLI::App& command) const;
  // Whether the observer is of this name.
  bool observes(const std::string& name) const { return observer_ == name; }
  // Adds one rule for all layers; none when nothing was given, which means the same as the default.
  void AddRule(v1::SessionConfig* config) const;

 private:
  void AddEmaOptions(CLI::App* command);
  void AddReferenceOptions(CLI::App* command);
  void AddLearnedOptions(CLI::App* command);
  // Adds an option that is for one observer.
  template <typename Value>
  CLI::Option* AddParameter(CLI::App* command, const char* name, Value* value, const char* description,
                            const char* type_name);
  bool quant_spec_given() const { return type_option_->count() > 0 || spec_.given(); }
  v1::ObserverConfig Observer() const;
  v1::LearnedOptions Learned() const;

  CLI::Option* config_option_;
  std::string observer_ = "histogram";
  CLI::Option* observer_option_;
  std::string ema_convention_ = "megengine";
  double ema_weight_ = 0;
  CLI::Option* ema_weight_option_;
  std::string reference_rule_ = "megengine";
  uint32_t reference_bins_ = 0;
  uint32_t reference_max_bins_ = 0;
  std::string learned_optimizer_ = "sgd";
  double learned_rate_ = 0;
  CLI::Option* learned_rate_option_;
  double learned_momentum_ = 0;
  CLI::Option* learned_momentum_option_;
  std::string learned_initial_;
  bool learned_plain_ = false;
  bool learned_replicated_ = false;
  int channel_axis_ = 0;
  CLI::Option* axis_option_;
  std::string type_ = "int8";
  CLI::Option* type_option_;
  SpecOptions spec_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_OBSERVER_OPTIONS_H_
