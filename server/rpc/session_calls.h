#ifndef CALIB_SERVER_RPC_SESSION_CALLS_H_
#define CALIB_SERVER_RPC_SESSION_CALLS_H_

#include <functional>

#include "absl/status/status.h"
#include "calib/v1/calibration_service.pb.h"
#include "server/engine/engine.h"

namespace calib::server {

// The unary calls that make, list, change and end sessions; the service's comments say what each does and which errors
// it has. They may block on the store and on sessions' locks: not for a gRPC thread.

absl::Status GetSession(Engine* engine, const v1::GetSessionRequest& request, v1::GetSessionResponse* response);
absl::Status ListSessions(Engine* engine, const v1::ListSessionsRequest& request, v1::ListSessionsResponse* response);
absl::Status DeleteSession(Engine* engine, const v1::DeleteSessionRequest& request);

// These promise that what they did is durable: they call `done` once that is so, or at once with the error, from any
// thread. `response` must live until then.
using Done = std::function<void(const absl::Status&)>;
void CreateSession(Engine* engine, const v1::CreateSessionRequest& request, v1::CreateSessionResponse* response,
                   Done done);
void SealSession(Engine* engine, const v1::SealSessionRequest& request, v1::SealSessionResponse* response, Done done);
void SetObserversEnabled(Engine* engine, const v1::SetObserversEnabledRequest& request,
                         v1::SetObserversEnabledResponse* response, Done done);
void SetQParams(Engine* engine, const v1::SetQParamsRequest& request, Done done);
void SetWorld(Engine* engine, const v1::SetWorldRequest& request, v1::SetWorldResponse* response, Done done);
void Flush(Engine* engine, const v1::FlushRequest& request, v1::FlushResponse* response, Done done);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_SESSION_CALLS_H_
