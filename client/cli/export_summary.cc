#include "client/cli/export_summary.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "proto/codec/export_format.h"

namespace calib::cli {
namespace {

// Layers left out that are named.
constexpr int kMostNamed = 20;

}  // namespace

std::string ExportSummaryText(const v1::ExportOptions& options, const std::string& path,
                              const v1::ExportSummary& summary) {
  std::string text =
      absl::StrCat("session ", options.session(), ": ", summary.layer_size(), " layers in ",
                   path == "-" ? "standard output" : Printable(path), " (", ExportFormatName(options.format()), ", ",
                   FormatBytes(static_cast<double>(summary.bytes())), ")\n");
  if (summary.from_input_size() > 0) {
    absl::StrAppend(&text, summary.from_input_size(), " weights of the input quantized by their own values\n");
  }
  const int named = std::min(summary.omitted_size(), kMostNamed);
  for (int i = 0; i < named; ++i) {
    absl::StrAppend(&text, "left out: ", Printable(summary.omitted(i).reason().message()), " [",
                    Printable(summary.omitted(i).reason().info().reason()), "]\n");
  }
  if (summary.omitted_size() > named) {
    absl::StrAppend(&text, "left out: ", summary.omitted_size() - named, " layers more; --json names them\n");
  }
  if (summary.incomplete()) {
    absl::StrAppend(&text, "warning: session ", options.session(),
                    " is incomplete: the server's store lost values of some workers; `calibctl session show` names "
                    "them\n");
  }
  return text;
}

std::string ExportSummaryJson(const v1::ExportOptions& options, const std::string& path,
                              const v1::ExportSummary& summary) {
  Json omitted = Json::array();
  for (const v1::OmittedLayer& layer : summary.omitted()) {
    omitted.push_back(
        {{"layer", layer.layer()}, {"reason", layer.reason().info().reason()}, {"message", layer.reason().message()}});
  }
  return ToLine({{"session", options.session()},
                 {"format", std::string(ExportFormatName(options.format()))},
                 {"file", path},
                 {"bytes", summary.bytes()},
                 {"layers", std::vector<std::string>(summary.layer().begin(), summary.layer().end())},
                 {"omitted", std::move(omitted)},
                 {"from_input", std::vector<std::string>(summary.from_input().begin(), summary.from_input().end())},
                 {"incomplete", summary.incomplete()}});
}

}  // namespace calib::cli
