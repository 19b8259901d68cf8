#include "client/cli/session_create.h"

#include <cerrno>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/cli/json_output.h"
#include "google/protobuf/util/json_util.h"
#include "quant/bfloat16_histogram.h"

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
        command->add_option("--observer", observer, "What is collected of every layer: histogram or minmax")
            ->check(CLI::IsMember({"histogram", "minmax"}).description(""))
            ->capture_default_str()
            ->type_name("O")
            ->excludes(config);
    axis_option = command
                      ->add_option("--channel-axis", channel_axis,
                                   "Observe each channel along this axis apart; negative counts from the end")
                      ->type_name("A")
                      ->excludes(config);
    command->add_option("--mantissa-bits", mantissa_bits, "Resolution of the histograms; the default is 7")
        ->check(CLI::Range(Bfloat16Histogram::kMinMantissaBits, Bfloat16Histogram::kMaxMantissaBits))
        ->type_name("N")
        ->excludes(config);
  }

  v1::SessionConfig ConfigFromOptions() const {
    v1::SessionConfig config;
    config.set_mantissa_bits(mantissa_bits);
    if (observer_option->count() > 0 || axis_option->count() > 0) {
      v1::LayerRule* const rule = config.add_rules();
      rule->set_pattern("*");
      rule->mutable_observer()->set_kind(observer == "minmax" ? v1::OBSERVER_KIND_MINMAX : v1::OBSERVER_KIND_HISTOGRAM);
      if (axis_option->count() > 0) rule->mutable_observer()->set_channel_axis(channel_axis);
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
  int channel_axis = 0;
  uint32_t mantissa_bits = 0;
  CLI::Option* observer_option;
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
