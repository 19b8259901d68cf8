#ifndef CALIB_TESTS_SUPPORT_IN_PROCESS_SERVER_H_
#define CALIB_TESTS_SUPPORT_IN_PROCESS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/engine/engine.h"
#include "server/rpc/grpc_server.h"
#include "server/store/store.h"

namespace calib::test {

struct InProcessServerOptions {
  server::EngineOptions engine;
  server::GrpcServerOptions grpc;  // listen: as given; port 0 unless set
  std::shared_ptr<server::Store>
      store;  // null: a MemoryStore of its own. Shared, so that a second server can open it after this one

  InProcessServerOptions() { grpc.listen.port = 0; }
};

// A calibd server in this process, on a loopback port.
class InProcessServer {
 public:
  // Ends the test program with a message if the server can't start.
  explicit InProcessServer(const InProcessServerOptions& options = {});
  // Stop with a deadline of now, if it was not stopped.
  ~InProcessServer();

  std::string address() const { return grpc_->address().ToString(); }
  server::Engine& engine() { return *engine_; }
  server::GrpcServer& grpc() { return *grpc_; }

  // Drains and ends the gRPC side, as at SIGTERM; the engine stays.
  absl::Status Stop(absl::Duration timeout);

 private:
  std::unique_ptr<server::Engine> engine_;
  std::unique_ptr<server::GrpcServer> grpc_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_IN_PROCESS_SERVER_H_
