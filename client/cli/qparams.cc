#include <iostream>
#include <memory>

#include "client/cli/command.h"
#include "client/cli/json_output.h"
#include "client/cli/qparams_table.h"
#include "client/cli/quantize_options.h"

namespace calib::cli {
namespace {

struct QParamsCommand {
  explicit QParamsCommand(CLI::App* command) : quantize(command) {
    AddSessionArgument(&session, command);
    command->add_option("GLOB", pattern, "Layers, `*` and `?` as in a shell; all without it")->type_name("");
  }

  absl::Status Run(const Context& context) const {
    v1::ComputeQParamsRequest request;
    request.set_session(session);
    request.set_pattern(pattern);
    quantize.Fill(&request);
    const auto response = context.client.ComputeQParams(request);
    if (!response.ok()) return response.status();
    if (response->incomplete()) {
      std::cerr
          << "calibctl: warning: session " << session
          << " is incomplete: the server's store lost values of some workers; `calibctl session show` names them\n";
    }
    if (context.options.json) {
      Json layers = Json::array();
      for (const v1::LayerQParams& layer : response->layer()) layers.push_back(ToJson(layer));
      std::cout << ToLine({{"session", session}, {"layers", std::move(layers)}}) << '\n';
    } else {
      std::cout << QParamsTable({response->layer().begin(), response->layer().end()});
    }
    return ErrorIfAllFailed(response->layer());
  }

  std::string session;
  std::string pattern;
  QuantizeOptions quantize;
};

}  // namespace

Run ConfigureQParams(CLI::App* command) {
  return [parsed = std::make_shared<QParamsCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
