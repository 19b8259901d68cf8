#ifndef CALIB_SERVER_EXPORT_CHECKS_H_
#define CALIB_SERVER_EXPORT_CHECKS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "quant/quant_type.h"
#include "server/export/exporter.h"

namespace calib::server {

// NOT_EXPORTABLE about one layer. `problem` says what is wrong and what to do.
absl::Status NotExportable(const ExportTensor& tensor, absl::string_view problem);

// --- What formats refuse. Each is OK, or NOT_EXPORTABLE.

// All values are zero, or the range chosen is: the scale means nothing.
absl::Status CheckHasRange(const ExportTensor& tensor);
// More than one scale.
absl::Status CheckPerTensor(const ExportTensor& tensor);
// More than one scale, and the axis of the channels is not known.
absl::Status CheckChannelAxis(const ExportTensor& tensor);
// Real zero is not code 0.
absl::Status CheckZeroPointZero(const ExportTensor& tensor);
// Per tensor, int8, codes -127 or -128 to 127, zero point 0.
absl::Status CheckSymmetricInt8(const ExportTensor& tensor);
// A control character in the name, such as the end of a line.
absl::Status CheckNameIsOneLine(const ExportTensor& tensor);

// --- What qparams say.

// "minmax", "mse", ...
std::string MethodNameOf(const v1::LayerQParams& qparams);
// The type of the codes.
QuantType TypeOf(const v1::LayerQParams& qparams);
// Whether the codes are all that the type has.
bool HasAllCodes(const v1::LayerQParams& qparams);
bool IsSymmetric(const v1::LayerQParams& qparams);
bool IsPerChannel(const v1::LayerQParams& qparams);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_CHECKS_H_
