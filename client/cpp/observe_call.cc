#include "client/cpp/observe_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "client/cpp/channel.h"
#include "client/cpp/status.h"

namespace calib::client {

struct ObserveCall::Call {
  grpc::ClientContext context;
  std::unique_ptr<v1::Calibration::Stub> stub;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ObserveRequest, v1::ObserveResponse>> stream;
};

ObserveCall::ObserveCall(const Client& client, bool wait_for_ready) : client_(client), call_(std::make_unique<Call>()) {
  call_->context.set_wait_for_ready(wait_for_ready);
  call_->context.set_initial_metadata_corked(true);  // else this waits for the connection, where no Cancel can reach it
  PrepareContext(client.options(), absl::InfiniteFuture(), &call_->context);
  call_->stub = v1::Calibration::NewStub(client.channel());
  call_->stream = call_->stub->Observe(&call_->context);
}

ObserveCall::~ObserveCall() = default;

bool ObserveCall::Write(const v1::ObserveRequest& request) { return call_->stream->Write(request); }

bool ObserveCall::Read(v1::ObserveResponse* response) { return call_->stream->Read(response); }

void ObserveCall::WritesDone() { call_->stream->WritesDone(); }

void ObserveCall::Cancel() { call_->context.TryCancel(); }

absl::Status ObserveCall::Finish() { return FromGrpcStatus(call_->stream->Finish(), client_.options().server); }

}  // namespace calib::client
