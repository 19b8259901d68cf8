#ifndef CALIB_PROTO_CODEC_EXPORT_FORMAT_H_
#define CALIB_PROTO_CODEC_EXPORT_FORMAT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/export.pb.h"

namespace calib {

// Formats by the names that the command line and messages spell them with: "tensorrt-cache", "aimet-1.0.0", ... as
// calib/v1/export.proto has them. INVALID_ARGUMENT names what there is.
absl::StatusOr<v1::ExportFormat> ParseExportFormat(absl::string_view name);
// Empty for a number that this build does not know.
absl::string_view ExportFormatName(v1::ExportFormat format);
// All of them: "json, csv, ...".
std::string ExportFormatNames();

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_EXPORT_FORMAT_H_
