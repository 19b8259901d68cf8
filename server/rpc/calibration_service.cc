#include "server/rpc/calibration_service.h"

#include "server/rpc/export_reactor.h"
#include "server/rpc/export_state_reactor.h"
#include "server/rpc/import_state_reactor.h"
#include "server/rpc/query_calls.h"
#include "server/rpc/session_calls.h"
#include "server/rpc/watch_reactor.h"

namespace calib::server {
namespace {

QueryLimits LimitsOf(const UnaryCall& call, size_t max_answer_bytes) {
  return {max_answer_bytes, [&call] { return call.abandoned(); }};
}

}  // namespace

CalibrationService::CalibrationService(Engine* engine, const Options& options)
    : engine_(engine),
      query_pool_(options.query_pool),
      max_answer_bytes_(options.max_answer_bytes),
      export_limits_(options.export_limits),
      calls_(options.query_pool, options.max_calls, &engine->counters()),
      read_budget_(options.max_read_bytes),
      observe_context_{engine, options.ingest_pool, &read_budget_, options.open_timeout} {}

// --- Sessions.

grpc::ServerUnaryReactor* CalibrationService::CreateSession(grpc::CallbackServerContext*,
                                                            const v1::CreateSessionRequest* request,
                                                            v1::CreateSessionResponse* response) {
  return calls_.Start(Method::kCreateSession, [=, this](UnaryCall* call) {
    server::CreateSession(engine_, *request, response, [call](const absl::Status& status) { call->Answer(status); });
  });
}

grpc::ServerUnaryReactor* CalibrationService::GetSession(grpc::CallbackServerContext*,
                                                         const v1::GetSessionRequest* request,
                                                         v1::GetSessionResponse* response) {
  return calls_.StartAndAnswer(Method::kGetSession,
                               [=, this](const UnaryCall&) { return server::GetSession(engine_, *request, response); });
}

grpc::ServerUnaryReactor* CalibrationService::ListSessions(grpc::CallbackServerContext*,
                                                           const v1::ListSessionsRequest* request,
                                                           v1::ListSessionsResponse* response) {
  return calls_.StartAndAnswer(
      Method::kListSessions, [=, this](const UnaryCall&) { return server::ListSessions(engine_, *request, response); });
}

grpc::ServerUnaryReactor* CalibrationService::SealSession(grpc::CallbackServerContext*,
                                                          const v1::SealSessionRequest* request,
                                                          v1::SealSessionResponse* response) {
  return calls_.Start(Method::kSealSession, [=, this](UnaryCall* call) {
    server::SealSession(engine_, *request, response, [call](const absl::Status& status) { call->Answer(status); });
  });
}

grpc::ServerUnaryReactor* CalibrationService::DeleteSession(grpc::CallbackServerContext*,
                                                            const v1::DeleteSessionRequest* request,
                                                            v1::DeleteSessionResponse*) {
  return calls_.StartAndAnswer(Method::kDeleteSession,
                               [=, this](const UnaryCall&) { return server::DeleteSession(engine_, *request); });
}

grpc::ServerUnaryReactor* CalibrationService::SetObserversEnabled(grpc::CallbackServerContext*,
                                                                  const v1::SetObserversEnabledRequest* request,
                                                                  v1::SetObserversEnabledResponse* response) {
  return calls_.Start(Method::kSetObserversEnabled, [=, this](UnaryCall* call) {
    server::SetObserversEnabled(engine_, *request, response,
                                [call](const absl::Status& status) { call->Answer(status); });
  });
}

grpc::ServerUnaryReactor* CalibrationService::SetQParams(grpc::CallbackServerContext*,
                                                         const v1::SetQParamsRequest* request,
                                                         v1::SetQParamsResponse*) {
  return calls_.Start(Method::kSetQParams, [=, this](UnaryCall* call) {
    server::SetQParams(engine_, *request, [call](const absl::Status& status) { call->Answer(status); });
  });
}

grpc::ServerUnaryReactor* CalibrationService::SetWorld(grpc::CallbackServerContext*, const v1::SetWorldRequest* request,
                                                       v1::SetWorldResponse* response) {
  return calls_.Start(Method::kSetWorld, [=, this](UnaryCall* call) {
    server::SetWorld(engine_, *request, response, [call](const absl::Status& status) { call->Answer(status); });
  });
}

grpc::ServerUnaryReactor* CalibrationService::Flush(grpc::CallbackServerContext*, const v1::FlushRequest* request,
                                                    v1::FlushResponse* response) {
  return calls_.Start(Method::kFlush, [=, this](UnaryCall* call) {
    server::Flush(engine_, *request, response, [call](const absl::Status& status) { call->Answer(status); });
  });
}

// --- Queries.

grpc::ServerUnaryReactor* CalibrationService::ComputeQParams(grpc::CallbackServerContext*,
                                                             const v1::ComputeQParamsRequest* request,
                                                             v1::ComputeQParamsResponse* response) {
  return calls_.StartAndAnswer(Method::kComputeQParams, [=, this](const UnaryCall& call) {
    return server::ComputeQParams(*engine_, *request, LimitsOf(call, max_answer_bytes_), response);
  });
}

grpc::ServerUnaryReactor* CalibrationService::CompareMethods(grpc::CallbackServerContext*,
                                                             const v1::CompareMethodsRequest* request,
                                                             v1::CompareMethodsResponse* response) {
  return calls_.StartAndAnswer(Method::kCompareMethods, [=, this](const UnaryCall& call) {
    return server::CompareMethods(*engine_, *request, LimitsOf(call, max_answer_bytes_), response);
  });
}

grpc::ServerUnaryReactor* CalibrationService::GetStatistics(grpc::CallbackServerContext*,
                                                            const v1::GetStatisticsRequest* request,
                                                            v1::GetStatisticsResponse* response) {
  return calls_.StartAndAnswer(Method::kGetStatistics, [=, this](const UnaryCall& call) {
    return server::GetStatistics(*engine_, *request, LimitsOf(call, max_answer_bytes_), response);
  });
}

// --- Streams.

grpc::ServerBidiReactor<v1::ObserveRequest, v1::ObserveResponse>* CalibrationService::Observe(
    grpc::CallbackServerContext*) {
  return ObserveReactor::Start(observe_context_);
}

grpc::ServerWriteReactor<v1::WatchQParamsResponse>* CalibrationService::WatchQParams(
    grpc::CallbackServerContext*, const v1::WatchQParamsRequest* request) {
  return WatchReactor::Start(engine_, query_pool_, *request, max_answer_bytes_);
}

grpc::ServerWriteReactor<v1::ExportStateResponse>* CalibrationService::ExportState(
    grpc::CallbackServerContext*, const v1::ExportStateRequest* request) {
  return ExportStateReactor::Start(engine_, query_pool_, request->session());
}

grpc::ServerReadReactor<v1::ImportStateRequest>* CalibrationService::ImportState(grpc::CallbackServerContext*,
                                                                                 v1::ImportStateResponse* response) {
  return ImportStateReactor::Start(engine_, query_pool_, response);
}

grpc::ServerBidiReactor<v1::ExportRequest, v1::ExportResponse>* CalibrationService::Export(
    grpc::CallbackServerContext*) {
  return ExportReactor::Start(engine_, query_pool_, export_limits_);
}

}  // namespace calib::server
