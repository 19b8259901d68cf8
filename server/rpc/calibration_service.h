#ifndef CALIB_SERVER_RPC_CALIBRATION_SERVICE_H_
#define CALIB_SERVER_RPC_CALIBRATION_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <cstddef>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/rpc/export_memory.h"
#include "server/rpc/observe_reactor.h"
#include "server/rpc/read_budget.h"
#include "server/rpc/unary_call.h"

namespace calib::server {

// The gRPC service over an engine: takes calls in on gRPC's threads, hands them to the pools and translates. The
// service, the engine and the pools must outlive the gRPC server.
class CalibrationService final : public v1::Calibration::CallbackService {
 public:
  struct Options {
    ThreadPool* ingest_pool;                          // messages of Observe streams
    ThreadPool* query_pool;                           // all other calls
    size_t max_read_bytes;                            // see ReadBudget
    size_t max_calls;                                 // see UnaryCalls
    size_t max_answer_bytes;                          // see QueryLimits
    absl::Duration open_timeout = absl::Seconds(10);  // see ObserveReactor
    ExportLimits export_limits;
  };
  CalibrationService(Engine* engine, const Options& options);

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext*, const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext*, const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext*, const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* SealSession(grpc::CallbackServerContext*, const v1::SealSessionRequest* request,
                                        v1::SealSessionResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext*, const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;
  grpc::ServerUnaryReactor* SetObserversEnabled(grpc::CallbackServerContext*,
                                                const v1::SetObserversEnabledRequest* request,
                                                v1::SetObserversEnabledResponse* response) override;
  grpc::ServerUnaryReactor* SetQParams(grpc::CallbackServerContext*, const v1::SetQParamsRequest* request,
                                       v1::SetQParamsResponse* response) override;
  grpc::ServerUnaryReactor* SetWorld(grpc::CallbackServerContext*, const v1::SetWorldRequest* request,
                                     v1::SetWorldResponse* response) override;
  grpc::ServerUnaryReactor* Flush(grpc::CallbackServerContext*, const v1::FlushRequest* request,
                                  v1::FlushResponse* response) override;
  grpc::ServerUnaryReactor* ComputeQParams(grpc::CallbackServerContext*, const v1::ComputeQParamsRequest* request,
                                           v1::ComputeQParamsResponse* response) override;
  grpc::ServerUnaryReactor* CompareMethods(grpc::CallbackServerContext*, const v1::CompareMethodsRequest* request,
                                           v1::CompareMethodsResponse* response) override;
  grpc::ServerUnaryReactor* GetStatistics(grpc::CallbackServerContext*, const v1::GetStatisticsRequest* request,
                                          v1::GetStatisticsResponse* response) override;
  grpc::ServerBidiReactor<v1::ObserveRequest, v1::ObserveResponse>* Observe(grpc::CallbackServerContext*) override;
  grpc::ServerWriteReactor<v1::WatchQParamsResponse>* WatchQParams(grpc::CallbackServerContext*,
                                                                   const v1::WatchQParamsRequest* request) override;
  grpc::ServerWriteReactor<v1::ExportStateResponse>* ExportState(grpc::CallbackServerContext*,
                                                                 const v1::ExportStateRequest* request) override;
  grpc::ServerReadReactor<v1::ImportStateRequest>* ImportState(grpc::CallbackServerContext*,
                                                               v1::ImportStateResponse* response) override;
  grpc::ServerBidiReactor<v1::ExportRequest, v1::ExportResponse>* Export(grpc::CallbackServerContext*) override;

 private:
  Engine* const engine_;
  ThreadPool* const query_pool_;
  const size_t max_answer_bytes_;
  const ExportLimits export_limits_;
  UnaryCalls calls_;
  ReadBudget read_budget_;
  const ObserveContext observe_context_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_CALIBRATION_SERVICE_H_
