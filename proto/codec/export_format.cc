#include "proto/codec/export_format.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace calib {
namespace {

// By ExportFormat, less 1.
constexpr absl::string_view kNames[] = {"json",
                                        "csv",
                                        "onnx-qdq",
                                        "tensorrt-cache",
                                        "onnxruntime-table",
                                        "onnxruntime-overrides",
                                        "aimet-0.6.1",
                                        "aimet-1.0.0",
                                        "aimet-2.0.0",
                                        "safetensors",
                                        "ncnn",
                                        "mxnet"};
static_assert(std::size(kNames) == v1::EXPORT_FORMAT_MXNET);

}  // namespace

absl::StatusOr<v1::ExportFormat> ParseExportFormat(absl::string_view name) {
  const auto* const found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found != std::end(kNames)) return static_cast<v1::ExportFormat>(found - std::begin(kNames) + 1);
  return absl::InvalidArgumentError(absl::StrCat("unknown format \"", name, "\"; use ", ExportFormatNames()));
}

absl::string_view ExportFormatName(v1::ExportFormat format) {
  return format >= 1 && format <= v1::EXPORT_FORMAT_MXNET ? kNames[format - 1] : "";
}

std::string ExportFormatNames() { return absl::StrJoin(kNames, ", "); }

}  // namespace calib
