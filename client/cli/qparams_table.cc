#include "client/cli/qparams_table.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/table.h"

namespace calib::cli {
namespace {

template <typename Values>
std::string NumbersCell(const Values& values) {
  return FormatNumbers(std::vector<double>(values.begin(), values.end()));
}

}  // namespace

std::string MseCell(const v1::LayerQParams& layer) { return layer.has_mse() ? FormatNumber(layer.mse()) : "-"; }

std::string SqnrCell(const v1::LayerQParams& layer) {
  if (!layer.has_sqnr_db()) return "-";
  return std::isinf(layer.sqnr_db()) ? "inf" : absl::StrFormat("%.2f", layer.sqnr_db());
}

std::string ClippedCell(const v1::LayerQParams& layer) {
  return layer.has_clipped() ? absl::StrFormat("%.3g%%", 100 * layer.clipped()) : "-";
}

std::string LayerErrorLine(const v1::LayerQParams& layer) {
  return Printable(
             absl::StrCat(layer.layer(), ": ", layer.error().message(), " [", layer.error().info().reason(), "]")) +
         "\n";
}

std::string QParamsTable(const std::vector<v1::LayerQParams>& layers) {
  Table table({{"LAYER", Table::Align::kLeft},
               {"METHOD", Table::Align::kLeft},
               {"DTYPE", Table::Align::kLeft},
               {"SCALE"},
               {"ZERO POINT"},
               {"CLIP MIN"},
               {"CLIP MAX"},
               {"MIN"},
               {"MAX"},
               {"COUNT"},
               {"NAN+INF"},
               {"MSE"},
               {"SQNR dB"},
               {"CLIPPED"}});
  std::string errors;
  for (const v1::LayerQParams& layer : layers) {
    if (layer.has_error()) {
      errors += LayerErrorLine(layer);
      continue;
    }
    table.AddRow({layer.layer(), MethodName(layer.method()), TypeName(layer.spec()), NumbersCell(layer.scale()),
                  NumbersCell(layer.zero_point()), NumbersCell(layer.clip_min()), NumbersCell(layer.clip_max()),
                  FormatNumber(layer.min()), FormatNumber(layer.max()), FormatCount(layer.count()),
                  FormatCount(layer.nan() + layer.inf()), MseCell(layer), SqnrCell(layer), ClippedCell(layer)});
  }
  return table.ToString() + errors;
}

absl::Status ErrorIfAllFailed(const google::protobuf::RepeatedPtrField<v1::LayerQParams>& layers) {
  const bool all = !layers.empty() && std::all_of(layers.begin(), layers.end(),
                                                  [](const v1::LayerQParams& layer) { return layer.has_error(); });
  if (!all) return absl::OkStatus();
  const v1::LayerQParams& first = layers[0];
  return absl::FailedPreconditionError(absl::StrCat("no layer has qparams; ", first.layer(), ": ",
                                                    first.error().message(), " [", first.error().info().reason(), "]"));
}

}  // namespace calib::cli
