#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/session_create.h"
#include "client/cli/session_pages.h"
#include "client/cli/session_state.h"
#include "client/cli/session_world.h"
#include "client/cli/synchronous_view.h"
#include "client/cli/table.h"
#include "google/protobuf/util/time_util.h"

namespace calib::cli {
namespace {

Run ConfigureList(CLI::App*) {
  return [](const Context& context) -> absl::Status {
    const auto sessions = ListAllSessions(&context.client);
    if (!sessions.ok()) return sessions.status();
    if (context.options.json) {
      Json list = Json::array();
      for (const v1::Session& session : *sessions) list.push_back(ToJson(session));
      std::cout << ToLine({{"sessions", std::move(list)}}) << '\n';
      return absl::OkStatus();
    }
    Table table({{"SESSION", Table::Align::kLeft},
                 {"STATE", Table::Align::kLeft},
                 {"LAYERS"},
                 {"WORKERS"},
                 {"VALUES"},
                 {"MEMORY"}});
    for (const v1::Session& session : *sessions) {
      table.AddRow({session.name(), session.sealed() ? "sealed" : "open", absl::StrCat(session.layer_count()),
                    absl::StrCat(session.worker_count()), FormatCount(session.values()),
                    FormatBytes(session.state_bytes())});
    }
    std::cout << table.ToString();
    return absl::OkStatus();
  };
}

std::string ObserverCell(const v1::LayerSummary& layer) {
  std::string cell = ObserverName(layer.observer());
  if (layer.observer().has_channel_axis()) absl::StrAppend(&cell, ", axis ", layer.observer().channel_axis());
  if (!layer.enabled()) cell += ", disabled";
  return cell;
}

std::string ShowText(const v1::GetSessionResponse& response) {
  const v1::Session& session = response.session();
  std::string text =
      absl::StrCat(session.name(), ": ", session.sealed() ? "sealed" : "open", ", ", session.layer_count(), " layers, ",
                   session.worker_count(), " workers, ", FormatCount(session.values()), " values, ",
                   FormatCount(session.updates_applied()), " updates, ", FormatBytes(session.state_bytes()), "\n");
  if (session.values_ignored() > 0) {
    absl::StrAppend(&text, FormatCount(session.values_ignored()), " values of disabled observers were ignored\n");
  }
  const bool synchronous = session.has_synchronous();
  if (synchronous) text += SynchronousText(session.synchronous());
  absl::StrAppend(&text, "uid ", session.uid(), ", last changed ",
                  google::protobuf::util::TimeUtil::ToString(session.update_time()), "\n");
  for (const v1::ImportedState& state : session.imported()) {
    absl::StrAppend(&text, "imported state ", state.digest(), ", with values of ", state.sessions(),
                    state.sessions() == 1 ? " session\n" : " sessions\n");
  }
  Table layers({{"LAYER", Table::Align::kLeft},
                {"OBSERVER", Table::Align::kLeft},
                {"CHANNELS"},
                {"COUNT"},
                {"NAN"},
                {"INF"},
                {"MIN"},
                {"MAX"},
                {"WORKERS"}});
  for (const v1::LayerSummary& layer : response.layer()) {
    const bool empty = layer.count() == 0;
    layers.AddRow({layer.layer(), ObserverCell(layer), absl::StrCat(layer.channels()), FormatCount(layer.count()),
                   FormatCount(layer.nan()), FormatCount(layer.inf()), empty ? "-" : FormatNumber(layer.min()),
                   empty ? "-" : FormatNumber(layer.max()), absl::StrCat(layer.workers())});
  }
  if (response.layer_size() > 0) absl::StrAppend(&text, "\n", layers.ToString());
  std::vector<Table::Column> columns = {
      {"WORKER", Table::Align::kLeft}, {"STATE", Table::Align::kLeft}, {"APPLIED"}, {"DURABLE"}, {"STREAMS"}};
  if (synchronous) columns.insert(columns.end(), {{"RANK"}, {"STEP"}});
  Table workers(columns);
  for (const v1::WorkerStatus& worker : response.worker()) {
    std::vector<std::string> cells = {worker.worker_id(), worker.connected() ? "connected" : "away",
                                      absl::StrCat(worker.applied()), absl::StrCat(worker.durable()),
                                      absl::StrCat(worker.incarnation())};
    if (synchronous) {
      cells.push_back(worker.has_rank() ? absl::StrCat(worker.rank()) : "-");
      cells.push_back(worker.has_rank() ? absl::StrCat(worker.step()) : "-");
    }
    workers.AddRow(std::move(cells));
  }
  if (response.worker_size() > 0) absl::StrAppend(&text, "\n", workers.ToString());
  return text;
}

Run ConfigureShow(CLI::App* command) {
  const auto session = std::make_shared<std::string>();
  AddSessionArgument(session.get(), command);
  return [session](const Context& context) -> absl::Status {
    const auto response = GetWholeSession(&context.client, *session);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      Json json = ToJson(response->session());
      json["layers"] = Json::array();
      for (const v1::LayerSummary& layer : response->layer()) json["layers"].push_back(ToJson(layer));
      json["workers"] = Json::array();
      for (const v1::WorkerStatus& worker : response->worker()) json["workers"].push_back(ToJson(worker));
      std::cout << ToLine(json) << '\n';
    } else {
      std::cout << ShowText(*response);
    }
    return absl::OkStatus();
  };
}

Run ConfigureSeal(CLI::App* command) {
  const auto session = std::make_shared<std::string>();
  AddSessionArgument(session.get(), command);
  return [session](const Context& context) -> absl::Status {
    v1::SealSessionRequest request;
    request.set_session(*session);
    const auto response = context.client.SealSession(request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      std::cout << ToLine(ToJson(response->session())) << '\n';
    } else {
      std::cout << "session " << *session << " is sealed: its results are final\n";
    }
    return absl::OkStatus();
  };
}

Run ConfigureDelete(CLI::App* command) {
  const auto session = std::make_shared<std::string>();
  AddSessionArgument(session.get(), command);
  return [session](const Context& context) -> absl::Status {
    v1::DeleteSessionRequest request;
    request.set_session(*session);
    const auto response = context.client.DeleteSession(request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      std::cout << ToLine({{"session", *session}, {"deleted", true}}) << '\n';
    } else {
      std::cout << "session " << *session << " is deleted\n";
    }
    return absl::OkStatus();
  };
}

Run ConfigureSwitch(bool enabled, CLI::App* command) {
  const auto request = std::make_shared<v1::SetObserversEnabledRequest>();
  request->set_enabled(enabled);
  AddSessionArgument(request->mutable_session(), command);
  command->add_option("GLOB", *request->mutable_pattern(), "Layers, also those not seen yet; `*` and `?` as in a shell")
      ->required()
      ->type_name("");
  return [request](const Context& context) -> absl::Status {
    const auto response = context.client.SetObserversEnabled(*request);
    if (!response.ok()) return response.status();
    const char* const state = request->enabled() ? "enabled" : "disabled";
    if (context.options.json) {
      std::cout << ToLine({{"session", request->session()},
                           {"pattern", request->pattern()},
                           {"enabled", request->enabled()},
                           {"layers", response->layers()}})
                << '\n';
    } else {
      std::cout << request->pattern() << " is " << state << "; it matches " << response->layers()
                << " layers seen so far\n";
    }
    return absl::OkStatus();
  };
}

Run ConfigureSetQParams(CLI::App* command) {
  const auto request = std::make_shared<v1::SetQParamsRequest>();
  const auto scales = std::make_shared<std::vector<float>>();
  const auto zero_points = std::make_shared<std::vector<int64_t>>();
  AddSessionArgument(request->mutable_session(), command);
  command->add_option("LAYER", *request->mutable_layer(), "The layer, seen or not")->required()->type_name("");
  command->add_option("--scale", *scales, "The scale, or one a channel, separated by commas")
      ->required()
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("S");
  command->add_option("--zero-point", *zero_points, "One for each scale; the default is 0")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("Z");
  return [=](const Context& context) -> absl::Status {
    request->mutable_scale()->Assign(scales->begin(), scales->end());
    request->mutable_zero_point()->Assign(zero_points->begin(), zero_points->end());
    const auto response = context.client.SetQParams(*request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      std::cout << ToLine({{"session", request->session()}, {"layer", request->layer()}, {"scale", *scales}}) << '\n';
    } else {
      std::cout << "layer " << Printable(request->layer()) << " of session " << request->session() << " has "
                << (scales->size() == 1 ? "a scale" : absl::StrCat(scales->size(), " scales")) << " set\n";
    }
    return absl::OkStatus();
  };
}

constexpr Command kSessionCommands[] = {
    {"create", "Make a session, or confirm that it exists with an equal config",
     "calibctl session create resnet50 --observer histogram", &ConfigureSessionCreate},
    {"list", "List all sessions", "calibctl session list", &ConfigureList},
    {"show", "Show a session, its layers and its workers", "calibctl session show resnet50", &ConfigureShow},
    {"seal", "End a session's collection: its results become final", "calibctl session seal resnet50", &ConfigureSeal},
    {"delete", "Remove a session and everything that it collected", "calibctl session delete resnet50",
     &ConfigureDelete},
    {"enable", "Collect the layers that match again", "calibctl session enable resnet50 'layer1.*'",
     [](CLI::App* command) { return ConfigureSwitch(true, command); }},
    {"disable", "Ignore what comes for the layers that match", "calibctl session disable resnet50 'layer1.*'",
     [](CLI::App* command) { return ConfigureSwitch(false, command); }},
    {"set-qparams", "Set scale and zero point of a layer with a passive observer",
     "calibctl session set-qparams resnet50 head --scale 0.02 --zero-point 3", ConfigureSetQParams},
    {"export-state", "Write a session's statistics to a file, for merging elsewhere",
     "calibctl session export-state resnet50 resnet50.state", &ConfigureExportState},
    {"import-state", "Merge a file of export-state into a session, once",
     "calibctl session import-state resnet50 site-b.state --create", &ConfigureImportState},
    {"inspect-state", "Show what is in a file of export-state; needs no server",
     "calibctl session inspect-state resnet50.state", &ConfigureInspectState},
    {"set-world", "Change the number of ranks that take part in synchronous steps",
     "calibctl session set-world resnet50 --world-size 4", ConfigureSetWorld},
};

}  // namespace

Run ConfigureSession(CLI::App* command) { return AddCommands(kSessionCommands, command); }

}  // namespace calib::cli
