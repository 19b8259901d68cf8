#ifndef CALIB_CLIENT_CLI_QPARAMS_TABLE_H_
#define CALIB_CLIENT_CLI_QPARAMS_TABLE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "calib/v1/quantization.pb.h"
#include "google/protobuf/repeated_ptr_field.h"

namespace calib::cli {

// Layers with their scale, zero point, ranges and expected error as a table; below it a line for each layer that has an
// error.
std::string QParamsTable(const std::vector<v1::LayerQParams>& layers);

// The expected errors as cells: "-" where there is none, "inf" for a perfect SQNR.
std::string MseCell(const v1::LayerQParams& layer);
std::string SqnrCell(const v1::LayerQParams& layer);
std::string ClippedCell(const v1::LayerQParams& layer);

// "LAYER: MESSAGE [REASON]" of a layer with an error, and a newline.
std::string LayerErrorLine(const v1::LayerQParams& layer);

// FAILED_PRECONDITION, naming the first, when every answer is an error: some answers are worth the exit code 0.
absl::Status ErrorIfAllFailed(const google::protobuf::RepeatedPtrField<v1::LayerQParams>& layers);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_QPARAMS_TABLE_H_
