#ifndef CALIB_CLIENT_CLI_JSON_OUTPUT_H_
#define CALIB_CLIENT_CLI_JSON_OUTPUT_H_

#include <string>

#include "calib/v1/calibration_service.pb.h"
#include "nlohmann/json.hpp"

namespace calib::cli {

// What --json prints. Keys keep the order in which they are set. Numbers read back exactly: float32 fields are widened
// to double and a double is written with the fewest digits that give it back. What is absent, infinite or NaN is null.
using Json = nlohmann::ordered_json;

// One line of text, without the newline.
std::string ToLine(const Json& json);

// One layer's qparams as the command line's contract has them. A layer without qparams has "error": {"reason",
// "message"} in place of the numbers.
Json ToJson(const v1::LayerQParams& layer);
// "synchronous" is null without synchronous steps.
Json ToJson(const v1::Session& session);
Json ToJson(const v1::LayerSummary& layer);
// "rank" is null for a worker without one.
Json ToJson(const v1::WorkerStatus& worker);
Json ToJson(const v1::SynchronousStatus& status);

// "int8", "mse", "histogram" as the command line spells them.
std::string TypeName(const v1::QuantSpec& spec);
std::string MethodName(const v1::MethodSpec& method);
std::string ObserverName(const v1::ObserverConfig& observer);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_JSON_OUTPUT_H_
