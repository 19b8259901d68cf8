#include "client/cli/session_pages.h"

namespace calib::cli {

absl::StatusOr<std::vector<v1::Session>> ListAllSessions(client::Client* client) {
  std::vector<v1::Session> sessions;
  v1::ListSessionsRequest request;
  request.set_page_size(1000);
  do {
    const auto response = client->ListSessions(request);
    if (!response.ok()) return response.status();
    sessions.insert(sessions.end(), response->session().begin(), response->session().end());
    request.set_page_token(response->next_page_token());
  } while (!request.page_token().empty());
  return sessions;
}

absl::StatusOr<v1::GetSessionResponse> GetWholeSession(client::Client* client, const std::string& session) {
  v1::GetSessionRequest request;
  request.set_session(session);
  v1::GetSessionResponse whole;
  do {
    const auto response = client->GetSession(request);
    if (!response.ok()) return response.status();
    request.set_page_token(response->next_page_token());
    // The session of the last page; workers come with the first.
    *whole.mutable_session() = response->session();
    whole.mutable_layer()->MergeFrom(response->layer());
    whole.mutable_worker()->MergeFrom(response->worker());
  } while (!request.page_token().empty());
  return whole;
}

}  // namespace calib::cli
