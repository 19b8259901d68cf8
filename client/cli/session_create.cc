#include "client/cli/session_create.h"

#include <cerrno>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/json_output.h"
#include "google/protobuf/util/json_util.h"
#include "proto/codec/config_codec.h"
#include "quant/bfloat16_histogram.h"
#include "quant/observer_config.h"

namespace calib::cli {
namespace {

struct CreateCommand {
  explicit CreateCommand(CLI::App* command) {
    AddSessionArgument(&session, command);
    CLI::Option* const config =
        command->add_option("--config", config_path,
                            "The whole config: a SessionConfig of calib/v1/session.proto in JSON, such as "
                            "{\"rules\": [{\"pattern\": \"*.bias\", \"skip\": true}, {\"pattern\": \"*\", "
                            "\"observer\": {\"kind\": \"OBSERVER_KIND_HISTOGRAM\"}}]}");
    config->type_name("FILE.json");
    observer_option =
        command
            ->add_option("--observer", observer,
                         "What is collected of every layer: histogram, minmax, ema, reference_histogram "
                         "or passive")
            ->check(CLI::Validator(
                [](std::string& name) { return std::string(ParseObserverKind(name).status().message()); }, ""))
            ->capture_default_str()
            ->type_name("O")
            ->excludes(config);
    command
        ->add_option("--ema-convention", ema_convention,
                     "For ema: megengine, whose weight is the old value's, or pytorch, whose weight is the new one's")
        ->check(CLI::IsMember({"megengine", "pytorch"}).description(""))
        ->capture_default_str()
        ->type_name("C")
        ->needs(observer_option);
    weight_option =
        command->add_option("--ema-weight", ema_weight, "For ema; the default is 0.9 (megengine) or 0.01 (pytorch)");
    weight_option->type_name("W")->needs(observer_option);
    command
        ->add_option("--reference-rule", reference_rule,
                     "For reference_histogram: megengine, pytorch (1.13), pytorch_current or mxnet")
        ->check(CLI::Validator(
            [](std::string& name) { return std::string(ParseReferenceRule(name).status().message()); }, ""))
        ->capture_default_str()
        ->type_name("R")
        ->needs(observer_option);
    command->add_option("--reference-bins", reference_bins, "For reference_histogram; the default is the rule's own")
        ->type_name("N")
        ->needs(observer_option);
    command
        ->add_option("--reference-max-bins", reference_max_bins,
                     "For reference_histogram: what it may grow to; past it a step is refused")
        ->type_name("N")
        ->needs(observer_option);
    axis_option = command
                      ->add_option("--channel-axis", channel_axis,
                                   "Observe each channel along this axis apart; negative counts from the end")
                      ->type_name("A")
                      ->excludes(config);
    command->add_option("--mantissa-bits", mantissa_bits, "Resolution of the histograms; the default is 7")
        ->check(CLI::Range(Bfloat16Histogram::kMinMantissaBits, Bfloat16Histogram::kMaxMantissaBits))
        ->type_name("N")
        ->excludes(config);
    command->parse_complete_callback([this, command] { CheckParameters(*command); });
  }

  // Throws CLI::ValidationError when a parameter of an observer was given and another is asked for.
  void CheckParameters(const CLI::App& command) const {
    for (const CLI::Option* option : command.get_options()) {
      const std::string name = option->get_name();
      for (const auto& [prefix, owner] :
           {std::pair("--ema-", "ema"), std::pair("--reference-", "reference_histogram")}) {
        if (option->count() > 0 && name.rfind(prefix, 0) == 0 && observer != owner) {
          throw CLI::ValidationError(name, std::string("needs --observer ") + owner);
        }
      }
    }
  }

  v1::SessionConfig ConfigFromOptions() const {
    v1::SessionConfig config;
    config.set_mantissa_bits(mantissa_bits);
    if (observer_option->count() > 0 || axis_option->count() > 0) {
      v1::LayerRule* const rule = config.add_rules();
      rule->set_pattern("*");
      ObserverConfig parsed;
      parsed.kind = ParseObserverKind(observer).value();
      parsed.ema.convention = ema_convention == "pytorch" ? EmaConvention::kPytorch : EmaConvention::kMegengine;
      parsed.ema.weight = weight_option->count() > 0 ? ema_weight : ema_convention == "pytorch" ? 0.01 : 0.9;
      parsed.reference.rule = ParseReferenceRule(reference_rule).value();
      parsed.reference.bins = reference_bins;
      parsed.reference.max_bins = reference_max_bins;
      if (axis_option->count() > 0) parsed.channel_axis = channel_axis;
      *rule->mutable_observer() = EncodeObserverConfig(parsed);
    }
    return config;
  }

  absl::Status Run(const Context& context) const {
    v1::CreateSessionRequest request;
    request.set_session(session);
    if (config_path.empty()) {
      *request.mutable_config() = ConfigFromOptions();
    } else {
      auto config = ReadSessionConfig(config_path);
      if (!config.ok()) return config.status();
      *request.mutable_config() = *std::move(config);
    }
    const auto response = context.client.CreateSession(request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      Json json = ToJson(response->session());
      json["created"] = response->created();
      std::cout << ToLine(json) << '\n';
    } else {
      std::cout << "session " << session << (response->created() ? " is created\n" : " exists with an equal config\n");
    }
    return absl::OkStatus();
  }

  std::string session;
  std::string config_path;
  std::string observer = "histogram";
  std::string ema_convention = "megengine";
  double ema_weight = 0;
  std::string reference_rule = "megengine";
  uint32_t reference_bins = 0;
  uint32_t reference_max_bins = 0;
  int channel_axis = 0;
  uint32_t mantissa_bits = 0;
  CLI::Option* observer_option;
  CLI::Option* weight_option;
  CLI::Option* axis_option;
};

}  // namespace

absl::StatusOr<v1::SessionConfig> ReadSessionConfig(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::ErrnoToStatus(errno, path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  v1::SessionConfig config;
  const auto status = google::protobuf::util::JsonStringToMessage(text, &config);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not a session config in JSON: ",
                     absl::StripSuffix(absl::string_view(status.message().data(), status.message().size()), "."),
                     "; see calibctl session create --help"));
  }
  return config;
}

Run ConfigureSessionCreate(CLI::App* command) {
  return [parsed = std::make_shared<CreateCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
