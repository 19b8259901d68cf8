#ifndef CALIB_SERVER_ENGINE_VALIDATE_H_
#define CALIB_SERVER_ENGINE_VALIDATE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/engine/limits.h"

namespace calib::server {

// Ids of the workers that imports count as begin so; clients' own can't.
inline constexpr absl::string_view kImportWorkerPrefix = "import-";

// What clients may call things; calib/v1 has the rules. INVALID_FIELD names the field and shows the value.
absl::Status ValidateSessionName(absl::string_view name);
absl::Status ValidateWorkerId(absl::string_view id);
absl::Status ValidateDisplayName(absl::string_view name);
// LAYER_NAME_INVALID: empty, or not UTF-8; LIMIT_EXCEEDED: too long.
absl::Status ValidateLayerName(absl::string_view name, const Limits& limits);

// LIMIT_EXCEEDED: "`what`; the limit is `limit` (`option`)". `layer`, if not empty, goes to the metadata: whose fault
// it is.
absl::Status LimitExceeded(absl::string_view what, absl::string_view option, uint64_t limit,
                           absl::string_view layer = "");

// `value` in quotes for a message: escaped, cut when it is long, always UTF-8.
std::string Quoted(absl::string_view value);

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_VALIDATE_H_
