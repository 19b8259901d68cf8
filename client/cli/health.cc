#include <iostream>

#include "client/cli/command.h"
#include "client/cli/json_output.h"

namespace calib::cli {

Run ConfigureHealth(CLI::App*) {
  return [](const Context& context) {
    absl::Status status = context.client.CheckHealth();
    if (context.options.json) {
      std::cout << ToLine({{"server", context.options.server}, {"serving", status.ok()}}) << '\n';
    } else if (status.ok()) {
      std::cout << context.options.server << " is serving\n";
    }
    return status;
  };
}

}  // namespace calib::cli
