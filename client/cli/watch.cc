#include <unistd.h>

#include <cmath>
#include <iostream>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "client/cli/command.h"
#include "client/cli/json_output.h"
#include "client/cli/quantize_options.h"
#include "client/cli/watch_view.h"

namespace calib::cli {
namespace {

Json StateToJson(const v1::WatchQParamsResponse& state) {
  Json workers = Json::array();
  for (const v1::WorkerStatus& worker : state.worker()) workers.push_back(ToJson(worker));
  Json layers = Json::array();
  for (const v1::LayerQParams& layer : state.layer()) layers.push_back(ToJson(layer));
  return {{"session", state.session().name()},
          {"sealed", state.session().sealed()},
          {"values", state.session().values()},
          {"values_ignored", state.session().values_ignored()},
          {"updates_applied", state.session().updates_applied()},
          {"layer_count", state.session().layer_count()},
          {"synchronous", state.session().has_synchronous() ? ToJson(state.session().synchronous()) : Json(nullptr)},
          {"workers", std::move(workers)},
          {"layers", std::move(layers)}};
}

struct WatchCommand {
  explicit WatchCommand(CLI::App* command) : quantize(command) {
    AddSessionArgument(&session, command);
    command->add_option("GLOB", pattern, "Layers, `*` and `?` as in a shell; all without it")->type_name("");
    command->add_option("--interval", interval_seconds, "Least seconds between two states")
        ->check(CLI::Range(0.05, 3600.0))
        ->capture_default_str()
        ->type_name("SECONDS");
  }

  absl::Status Run(const Context& context) const {
    v1::WatchQParamsRequest request;
    request.set_session(session);
    request.set_pattern(pattern);
    quantize.Fill(&request);
    request.set_interval_ms(static_cast<uint32_t>(std::lround(interval_seconds * 1000)));

    const bool terminal = isatty(STDOUT_FILENO) == 1;
    WatchView view;
    // Ctrl-C is the usual end. The call may be waiting for the next state, so the process ends from the signal's
    // thread, between two states.
    absl::Mutex output;
    context.interrupts.OnInterrupt([&output] {
      absl::MutexLock lock(&output);
      std::cout << std::flush;
      _exit(0);
    });
    absl::Status status = context.client.WatchQParams(request, [&](const v1::WatchQParamsResponse& state) {
      absl::MutexLock lock(&output);
      if (context.options.json) {
        std::cout << ToLine(StateToJson(state)) << '\n';
      } else if (terminal) {
        view.Update(state);
        std::cout << view.Screen();
      } else {
        std::cout << WatchLine(state) << '\n';
      }
      return static_cast<bool>(std::cout.flush());
    });
    context.interrupts.OnInterrupt(nullptr);
    return status;
  }

  std::string session;
  std::string pattern;
  double interval_seconds = 1;
  QuantizeOptions quantize;
};

}  // namespace

Run ConfigureWatch(CLI::App* command) {
  return [parsed = std::make_shared<WatchCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
