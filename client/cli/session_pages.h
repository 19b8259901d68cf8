#ifndef CALIB_CLIENT_CLI_SESSION_PAGES_H_
#define CALIB_CLIENT_CLI_SESSION_PAGES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace calib::cli {

// All sessions in name order, every page.
absl::StatusOr<std::vector<v1::Session>> ListAllSessions(client::Client* client);

// A session with all its workers and every page of its layers.
absl::StatusOr<v1::GetSessionResponse> GetWholeSession(client::Client* client, const std::string& session);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SESSION_PAGES_H_
