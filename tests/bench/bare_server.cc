#include "tests/bench/bare_server.h"

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <memory>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "server/base/allocator.h"

namespace calib::bench {
namespace {

class DiscardReactor : public grpc::ServerBidiReactor<v1::ObserveRequest, v1::ObserveResponse> {
 public:
  DiscardReactor() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartRead(&request_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  v1::ObserveRequest request_;
};

class BareService : public v1::Calibration::CallbackService {
 public:
  grpc::ServerBidiReactor<v1::ObserveRequest, v1::ObserveResponse>* Observe(grpc::CallbackServerContext*) override {
    return new DiscardReactor;
  }
};

}  // namespace

int RunBareServer(bool keep_freed_memory) {
  if (keep_freed_memory) server::KeepFreedMemory();
  BareService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::printf("bare ready grpc=127.0.0.1:%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
  return 0;
}

}  // namespace calib::bench
