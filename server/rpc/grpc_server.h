#ifndef CALIB_SERVER_RPC_GRPC_SERVER_H_
#define CALIB_SERVER_RPC_GRPC_SERVER_H_

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/base/listen_address.h"
#include "server/base/thread_pool.h"
#include "server/engine/engine.h"
#include "server/rpc/export_memory.h"

namespace grpc {
class Server;
}  // namespace grpc

namespace calib::server {

class CalibrationService;

// Every limit and channel argument of the gRPC side.
struct GrpcServerOptions {
  ListenAddress listen = {"127.0.0.1", 7070};

  // Largest message taken, and largest answer of a query. A larger message gets RESOURCE_EXHAUSTED.
  size_t max_message_bytes = 4 << 20;
  // Memory of the transport's buffers in all; past it gRPC slows connections down, then cuts them. gRPC 1.51 buffers a
  // message before it looks at its size, so this is what bounds an attack with huge ones.
  size_t transport_memory_bytes = 512 << 20;
  // Messages of Observe streams that were read and wait to be processed, in all.
  size_t max_read_bytes = 256 << 20;
  // Memory of Export calls.
  ExportLimits export_limits;
  // An Observe stream that did not send its Open in this time is ended.
  absl::Duration open_timeout = absl::Seconds(10);
  // Unary calls queued or running at once.
  size_t max_calls = 1000;
  // Calls open at once on one connection; further ones wait at the client.
  int max_streams_per_connection = 1000;
  // Largest metadata of a call.
  int max_metadata_bytes = 8 << 10;

  // Idle connections are pinged this often and cut without an answer in time, so that a dead client is noticed.
  absl::Duration keepalive_time = absl::Seconds(60);
  absl::Duration keepalive_timeout = absl::Seconds(20);
  // Clients may ping this often, also without calls.
  absl::Duration min_client_ping_interval = absl::Seconds(20);

  // grpc.reflection.v1alpha.
  bool reflection = false;

  // Threads that process Observe messages, and that run all other calls; 0: one a core, at least 2.
  int ingest_threads = 0;
  int query_threads = 0;
};

// The gRPC front of an engine: service, health, reflection, pools. Thread-safe.
class GrpcServer {
 public:
  // Listens. `engine` must outlive the server. UNAVAILABLE: the address can't be listened on, and why.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options, Engine* engine);
  // Stop with a deadline of now.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Where it listens: the port is the chosen one if 0 was asked for.
  const ListenAddress& address() const { return address_; }

  // OK while calls are taken: not draining, and the store takes commits.
  absl::Status ready() const;
  // Tells health clients whether the server is ready. To be called now and then: nothing else says that the store
  // failed.
  void UpdateHealth();

  // Drains and ends: health turns NOT_SERVING, streams become durable, get their last Ack and end, and other calls
  // finish. Whatever is left at the deadline is cancelled. Then what changed is committed; the error if that fails.
  // Idempotent.
  absl::Status Stop(absl::Time deadline);

 private:
  explicit GrpcServer(Engine* engine);

  Engine* const engine_;
  ListenAddress address_;
  // In the order in which they may go, last first: calls use the service, the service the pools.
  std::unique_ptr<ThreadPool> ingest_pool_;
  std::unique_ptr<ThreadPool> query_pool_;
  std::unique_ptr<CalibrationService> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_GRPC_SERVER_H_
