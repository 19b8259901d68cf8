#include "client/cli/command.h"

#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "proto/codec/error.h"

namespace calib::cli {

Run AddCommands(absl::Span<const Command> commands, CLI::App* parent) {
  std::vector<std::pair<CLI::App*, Run>> runs;
  for (const Command& command : commands) {
    CLI::App* const app = parent->add_subcommand(command.name, command.summary);
    app->fallthrough();
    app->footer(absl::StrCat("Example:\n  ", command.example));
    runs.emplace_back(app, command.configure(app));
  }
  // Not require_subcommand(1): it would speak up before an unknown command is named.
  parent->callback([parent] {
    if (parent->get_subcommands().empty()) throw CLI::RequiredError("A command");
  });
  return [runs = std::move(runs)](const Context& context) {
    for (const auto& [app, run] : runs) {
      if (app->parsed()) return run(context);
    }
    return absl::InternalError("no command was given");
  };
}

void AddSessionArgument(std::string* session, CLI::App* command) {
  command->add_option("NAME", *session, "The session")->required()->type_name("");
}

std::string ErrorLine(const absl::Status& status) {
  std::string line = Printable(status.message());
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  if (info.has_value()) absl::StrAppend(&line, " [", Printable(info->reason()), "]");
  return line;
}

absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  absl::Status annotated(status.code(), absl::StrCat(prefix, ": ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view type_url, const absl::Cord& payload) { annotated.SetPayload(type_url, payload); });
  return annotated;
}

}  // namespace calib::cli
