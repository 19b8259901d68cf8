#include "client/cpp/welcome_config.h"

#include "absl/strings/str_cat.h"
#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"

namespace calib::client {

absl::StatusOr<SessionConfig> ConfigOf(const v1::Welcome& welcome, const std::string& session,
                                       const std::optional<SessionConfig>& earlier) {
  absl::StatusOr<SessionConfig> config = DecodeSessionConfig(welcome.config());
  if (config.ok() && earlier.has_value() && *config != *earlier) {
    return MakeError(
        v1::ERROR_REASON_SESSION_CONFIG_MISMATCH,
        absl::StrCat("session ", session, " was deleted and made again with another config; open a new worker"));
  }
  return config;
}

}  // namespace calib::client
