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
#include "client/cli/observer_options.h"
#include "client/cli/synchronous_options.h"
#include "google/protobuf/util/json_util.h"
#include "quant/bfloat16_histogram.h"

namespace calib::cli {
namespace {

struct CreateCommand {
  explicit CreateCommand(CLI::App* command)
      : config_option(
            command->add_option("--config", config_path,
                                "The whole config: a SessionConfig of calib/v1/session.proto in JSON, such as "
                                "{\"rules\": [{\"pattern\": \"*.bias\", \"skip\": true}, {\"pattern\": \"*\", "
                                "\"observer\": {\"kind\": \"OBSERVER_KIND_HISTOGRAM\"}}]}")),
        observer(command, config_option),
        synchronous(command, config_option) {
    AddSessionArgument(&session, command);
    config_option->type_name("FILE.json");
    command->add_option("--mantissa-bits", mantissa_bits, "Resolution of the histograms; the default is 7")
        ->check(CLI::Range(Bfloat16Histogram::kMinMantissaBits, Bfloat16Histogram::kMaxMantissaBits))
        ->type_name("N")
        ->excludes(config_option);
    command->parse_complete_callback([this, command] { CheckParameters(*command); });
  }

  // Throws CLI::ParseError when options contradict each other.
  void CheckParameters(const CLI::App& command) const {
    observer.Check(command);
    synchronous.Check();
    if (observer.observes("learned") && !synchronous.given()) {
      throw CLI::ValidationError("--observer learned", "needs --world-size: it learns in synchronous steps");
    }
  }

  v1::SessionConfig ConfigFromOptions() const {
    v1::SessionConfig config;
    config.set_mantissa_bits(mantissa_bits);
    observer.AddRule(&config);
    synchronous.Fill(&config);
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
  uint32_t mantissa_bits = 0;
  CLI::Option* config_option;
  ObserverOptions observer;
  SynchronousStepOptions synchronous;
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
