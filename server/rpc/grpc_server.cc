#include "server/rpc/grpc_server.h"

#include <grpc/compression.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/codec/error.h"
#include "server/rpc/calibration_service.h"

namespace calib::server {
namespace {

// The reflection library adds its plugin to every builder of the process; this takes it out of one.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) { return absl::StrContains(plugin->name(), "reflection"); }),
                   plugins->end());
  }
};

int ThreadsOr(int threads) {
  return threads > 0 ? threads : std::max(2, static_cast<int>(std::thread::hardware_concurrency()));
}

void SetLimits(const GrpcServerOptions& options, grpc::ServerBuilder* builder) {
  const auto milliseconds = [](absl::Duration duration) {
    return static_cast<int>(absl::ToInt64Milliseconds(duration));
  };
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  // gRPC 1.51 inflates a message before it looks at its size, beyond every quota: no compression at all.
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  grpc::ResourceQuota quota("calibd");
  quota.Resize(options.transport_memory_bytes);
  builder->SetResourceQuota(quota);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, milliseconds(options.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, milliseconds(options.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              milliseconds(options.min_client_ping_interval));
  // Two servers on one port would each get some of the clients.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options, Engine* engine) {
  // gRPC only logs why it can't listen, so this asks first.
  const absl::Status listenable = CheckListenable(options.listen);
  if (!listenable.ok()) return listenable;

  std::unique_ptr<GrpcServer> server(new GrpcServer(engine));
  server->ingest_pool_ = std::make_unique<ThreadPool>(ThreadsOr(options.ingest_threads));
  server->query_pool_ = std::make_unique<ThreadPool>(ThreadsOr(options.query_threads));
  CalibrationService::Options service;
  service.ingest_pool = server->ingest_pool_.get();
  service.query_pool = server->query_pool_.get();
  service.max_read_bytes = options.max_read_bytes;
  service.max_calls = options.max_calls;
  service.open_timeout = options.open_timeout;
  service.max_answer_bytes = options.max_message_bytes;
  service.export_limits = options.export_limits;
  server->service_ = std::make_unique<CalibrationService>(engine, service);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(options, &builder);
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  int port = 0;
  builder.AddListeningPort(options.listen.ToString(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(server->service_.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen.ToString()));
  }
  server->address_ = {options.listen.host, port};
  server->UpdateHealth();
  return server;
}

GrpcServer::GrpcServer(Engine* engine) : engine_(engine) {}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) (void)Stop(absl::Now());
}

absl::Status GrpcServer::ready() const {
  if (engine_->draining()) return MakeError(v1::ERROR_REASON_SERVER_DRAINING, "the server is shutting down");
  return engine_->store_status();
}

void GrpcServer::UpdateHealth() {
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  const bool serving = ready().ok();
  health->SetServingStatus(serving);
  health->SetServingStatus(std::string(v1::Calibration::service_full_name()), serving);
}

absl::Status GrpcServer::Stop(absl::Time deadline) {
  engine_->BeginDrain();
  UpdateHealth();
  server_->Shutdown(absl::ToChronoTime(deadline));
  server_->Wait();
  return engine_->Checkpoint();
}

}  // namespace calib::server
