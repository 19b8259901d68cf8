#ifndef CALIB_CLIENT_CPP_WELCOME_CONFIG_H_
#define CALIB_CLIENT_CPP_WELCOME_CONFIG_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "calib/v1/observe.pb.h"
#include "quant/observer_config.h"

namespace calib::client {

// The config of a session's Welcome. SESSION_CONFIG_MISMATCH when it is not that of an earlier one: the session was
// deleted and made again.
absl::StatusOr<SessionConfig> ConfigOf(const v1::Welcome& welcome, const std::string& session,
                                       const std::optional<SessionConfig>& earlier);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_WELCOME_CONFIG_H_
