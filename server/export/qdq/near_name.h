#ifndef CALIB_SERVER_EXPORT_QDQ_NEAR_NAME_H_
#define CALIB_SERVER_EXPORT_QDQ_NEAR_NAME_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace calib::server {

// The name that someone who wrote `wanted` may have meant. Capitals and characters that are no letters or digits
// don't count. In this order: the same name, the shortest that contains it, that with the fewest characters changed,
// added or left out, at most a quarter of them. Of equal ones the first; unset when none is near. So that it takes
// milliseconds, only the first 10,000 names are looked at and their first 512 characters, and names of more than 64
// letters and digits are not compared in the last way.
std::optional<std::string> NearName(absl::string_view wanted, absl::Span<const std::string> names);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_NEAR_NAME_H_
