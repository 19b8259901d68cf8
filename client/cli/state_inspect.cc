#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/session_state.h"
#include "client/cli/state_input.h"
#include "client/cli/table.h"
#include "google/protobuf/util/time_util.h"
#include "proto/codec/observer_codec.h"

namespace calib::cli {
namespace {

// What is said about a layer of a file. (That of several channels has their counts together.)
v1::LayerSummary Summarize(const std::string& name, const LayerStatistics& statistics) {
  v1::LayerSummary summary;
  summary.set_layer(name);
  *summary.mutable_observer() = EncodeObserverConfig(statistics.config());
  summary.set_channels(static_cast<uint32_t>(statistics.channels().size()));
  const auto add = [](uint64_t a, uint64_t b) { return a + b < a ? ~uint64_t{0} : a + b; };
  Range whole;
  for (const ChannelStatistics& channel : statistics.channels()) {
    summary.set_count(add(summary.count(), channel.range.count));
    summary.set_nan(add(summary.nan(), channel.range.nan));
    summary.set_inf(add(summary.inf(), channel.range.infinities()));
    whole.min = std::min(whole.min, channel.range.min);
    whole.max = std::max(whole.max, channel.range.max);
  }
  if (summary.count() > 0) {
    summary.set_min(whole.min);
    summary.set_max(whole.max);
  }
  return summary;
}

Json InspectJson(const v1::StateHeader& header, const std::vector<v1::LayerSummary>& layers,
                 const StateFileReader& reader) {
  v1::Session session;  // for the keys that a session's own JSON has
  session.set_name(header.session());
  *session.mutable_config() = header.config();
  const Json known = ToJson(session);
  Json json = {{"session", header.session()},
               {"uid", header.uid()},
               {"lineage", std::vector<std::string>(header.lineage().begin(), header.lineage().end())},
               {"config", known.at("config")},
               {"create_time", google::protobuf::util::TimeUtil::ToString(header.create_time())},
               {"updates_applied", header.updates()},
               {"incomplete", header.incomplete()},
               {"values", reader.values()},
               {"bytes", reader.file_bytes()},
               {"digest", reader.digest()},
               {"layers", Json::array()}};
  for (const v1::LayerSummary& layer : layers) {
    Json entry = ToJson(layer);
    entry.erase("enabled");
    entry.erase("workers");
    json["layers"].push_back(std::move(entry));
  }
  return json;
}

std::string InspectText(const v1::StateHeader& header, const std::vector<v1::LayerSummary>& layers,
                        const StateFileReader& reader) {
  std::string text =
      absl::StrCat("state ", reader.digest(), " of session ", Printable(header.session()), ": ", layers.size(),
                   " layers, ", FormatCount(reader.values()), " values, ", FormatCount(header.updates()), " updates, ",
                   FormatBytes(static_cast<double>(reader.file_bytes())), "\nuid ", Printable(header.uid()), ", made ",
                   google::protobuf::util::TimeUtil::ToString(header.create_time()), "\n");
  if (header.incomplete()) text += "incomplete: values of some workers were lost before it was exported\n";
  for (const std::string& uid : header.lineage()) {
    if (uid != header.uid()) absl::StrAppend(&text, "with values of session ", Printable(uid), "\n");
  }
  Table table({{"LAYER", Table::Align::kLeft},
               {"OBSERVER", Table::Align::kLeft},
               {"CHANNELS"},
               {"COUNT"},
               {"NAN"},
               {"INF"},
               {"MIN"},
               {"MAX"}});
  for (const v1::LayerSummary& layer : layers) {
    const bool empty = layer.count() == 0;
    table.AddRow({layer.layer(), ObserverName(layer.observer()), absl::StrCat(layer.channels()),
                  FormatCount(layer.count()), FormatCount(layer.nan()), FormatCount(layer.inf()),
                  empty ? "-" : FormatNumber(layer.min()), empty ? "-" : FormatNumber(layer.max())});
  }
  if (!layers.empty()) absl::StrAppend(&text, "\n", table.ToString());
  return text;
}

}  // namespace

Run ConfigureInspectState(CLI::App* command) {
  const auto path = std::make_shared<std::string>();
  command->add_option("FILE", *path, "The state file; - reads standard input")->required()->type_name("");
  return [path](const Context& context) -> absl::Status {
    const absl::StatusOr<std::unique_ptr<InputFile>> input = InputFile::Open(*path);
    if (!input.ok()) return input.status();
    v1::StateHeader header;
    std::vector<v1::LayerSummary> layers;
    StateFileReader reader({.on_header =
                                [&](const v1::StateHeader& found, const SessionConfig&) {
                                  header = found;
                                  return absl::OkStatus();
                                },
                            .on_layer =
                                [&](const std::string& name, const LayerStatistics& statistics) {
                                  layers.push_back(Summarize(name, statistics));
                                  return absl::OkStatus();
                                }});
    if (const absl::Status checked = CheckState(input->get(), &reader); !checked.ok()) return checked;
    if (context.options.json) {
      std::cout << ToLine(InspectJson(header, layers, reader)) << '\n';
    } else {
      std::cout << InspectText(header, layers, reader);
    }
    return absl::OkStatus();
  };
}

}  // namespace calib::cli
