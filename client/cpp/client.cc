#include "client/cpp/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "calib/v1/calibration_service.grpc.pb.h"
#include "client/cpp/backoff.h"
#include "client/cpp/channel.h"
#include "client/cpp/health.h"
#include "client/cpp/status.h"
#include "proto/codec/error.h"

namespace calib::client {
namespace {

constexpr absl::Duration kMinBackoff = absl::Milliseconds(100);
constexpr absl::Duration kMaxBackoff = absl::Seconds(2);

using Stub = v1::Calibration::Stub;

template <typename Request, typename Response>
using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

// `*attempts` counts the calls made.
template <typename Request, typename Response>
absl::StatusOr<Response> Call(Stub* stub, const ClientOptions& options, Method<Request, Response> method,
                              const Request& request, int* attempts) {
  const absl::Time deadline = absl::Now() + options.call_timeout;
  Backoff backoff(kMinBackoff, kMaxBackoff);
  absl::Status unavailable;
  while (true) {
    grpc::ClientContext context;
    PrepareContext(options, deadline, &context);
    // A repetition is there as soon as the server is; without a call gRPC looks every five seconds alone.
    context.set_wait_for_ready(!unavailable.ok());
    Response response;
    ++*attempts;
    const absl::Status status = FromGrpcStatus((stub->*method)(&context, request, &response), options.server);
    if (status.ok()) return response;
    if (absl::IsDeadlineExceeded(status) && !unavailable.ok()) {
      // The call that waited in vain says nothing about why.
      absl::Status both(unavailable.code(), absl::StrCat(unavailable.message(), "; then no answer in time"));
      unavailable.ForEachPayload(
          [&](absl::string_view url, const absl::Cord& payload) { both.SetPayload(url, payload); });
      return both;
    }
    if (!absl::IsUnavailable(status) || !options.retry_unavailable) return status;
    unavailable = status;
    const absl::Duration wait = backoff.Next();
    if (absl::Now() + wait >= deadline) return status;
    absl::SleepFor(wait);
  }
}

template <typename Request, typename Response>
absl::StatusOr<Response> Call(Stub* stub, const ClientOptions& options, Method<Request, Response> method,
                              const Request& request) {
  int attempts = 0;
  return Call(stub, options, method, request, &attempts);
}

}  // namespace

struct Client::Stub {
  std::unique_ptr<v1::Calibration::Stub> stub;
};

Client::Client(ClientOptions options)
    : options_(std::move(options)),
      channel_(MakeChannel(options_)),
      stub_(std::make_unique<Stub>(Stub{v1::Calibration::NewStub(channel_)})) {}

Client::~Client() = default;

absl::StatusOr<v1::CreateSessionResponse> Client::CreateSession(const v1::CreateSessionRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::CreateSession, request);
}

absl::StatusOr<v1::GetSessionResponse> Client::GetSession(const v1::GetSessionRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::GetSession, request);
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(const v1::ListSessionsRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::ListSessions, request);
}

absl::StatusOr<v1::SealSessionResponse> Client::SealSession(const v1::SealSessionRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::SealSession, request);
}

absl::StatusOr<v1::DeleteSessionResponse> Client::DeleteSession(const v1::DeleteSessionRequest& request) {
  int attempts = 0;
  absl::StatusOr<v1::DeleteSessionResponse> response =
      Call(stub_->stub.get(), options_, &v1::Calibration::Stub::DeleteSession, request, &attempts);
  // An attempt before this one did it, and its answer was lost.
  const bool done_before = attempts > 1 && GetReason(response.status()) == v1::ERROR_REASON_SESSION_NOT_FOUND;
  if (done_before) return v1::DeleteSessionResponse();
  return response;
}

absl::StatusOr<v1::SetObserversEnabledResponse> Client::SetObserversEnabled(
    const v1::SetObserversEnabledRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::SetObserversEnabled, request);
}

absl::StatusOr<v1::SetQParamsResponse> Client::SetQParams(const v1::SetQParamsRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::SetQParams, request);
}

absl::StatusOr<v1::SetWorldResponse> Client::SetWorld(const v1::SetWorldRequest& request) {
  int attempts = 0;
  absl::StatusOr<v1::SetWorldResponse> response =
      Call(stub_->stub.get(), options_, &v1::Calibration::Stub::SetWorld, request, &attempts);
  if (attempts == 1 || GetReason(response.status()) != v1::ERROR_REASON_WORLD_EPOCH_STALE) return response;
  v1::GetSessionRequest get;
  get.set_session(request.session());
  get.set_page_size(1);
  const absl::StatusOr<v1::GetSessionResponse> session = GetSession(get);
  if (!session.ok()) return session.status();
  const v1::SynchronousStatus& status = session->session().synchronous();
  // An attempt before this one did it, and its answer was lost.
  const bool done_before =
      status.world().epoch() == request.expected_epoch() + 1 && status.world().size() == request.world_size();
  if (!done_before) return response;
  response.emplace();
  *response->mutable_world() = status.world();
  response->set_folded_step(status.folded_step());
  return response;
}

absl::StatusOr<v1::FlushResponse> Client::Flush(const v1::FlushRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::Flush, request);
}

absl::StatusOr<v1::ComputeQParamsResponse> Client::ComputeQParams(const v1::ComputeQParamsRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::ComputeQParams, request);
}

absl::StatusOr<v1::CompareMethodsResponse> Client::CompareMethods(const v1::CompareMethodsRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::CompareMethods, request);
}

absl::StatusOr<v1::GetStatisticsResponse> Client::GetStatistics(const v1::GetStatisticsRequest& request) {
  return Call(stub_->stub.get(), options_, &v1::Calibration::Stub::GetStatistics, request);
}

absl::Status Client::WatchQParams(const v1::WatchQParamsRequest& request,
                                  const std::function<bool(const v1::WatchQParamsResponse&)>& on_state) {
  grpc::ClientContext context;
  PrepareContext(options_, absl::InfiniteFuture(), &context);
  const auto reader = stub_->stub->WatchQParams(&context, request);
  v1::WatchQParamsResponse response;
  bool wanted = true;
  while (wanted && reader->Read(&response)) wanted = on_state(response);
  if (!wanted) context.TryCancel();
  const grpc::Status status = reader->Finish();
  return wanted ? FromGrpcStatus(status, options_.server) : absl::OkStatus();
}

absl::Status Client::ExportState(const v1::ExportStateRequest& request,
                                 const std::function<absl::Status(absl::string_view bytes)>& on_chunk) {
  grpc::ClientContext context;
  PrepareContext(options_, absl::InfiniteFuture(), &context);
  const auto reader = stub_->stub->ExportState(&context, request);
  v1::ExportStateResponse chunk;
  absl::Status taken;
  while (taken.ok() && reader->Read(&chunk)) taken = on_chunk(chunk.data());
  if (!taken.ok()) context.TryCancel();
  const grpc::Status status = reader->Finish();
  return taken.ok() ? FromGrpcStatus(status, options_.server) : taken;
}

absl::StatusOr<v1::ImportStateResponse> Client::ImportState(
    const v1::StateImport& open, const std::function<absl::StatusOr<std::string>()>& next_chunk) {
  grpc::ClientContext context;
  PrepareContext(options_, absl::InfiniteFuture(), &context);
  v1::ImportStateResponse response;
  const auto writer = stub_->stub->ImportState(&context, &response);
  v1::ImportStateRequest request;
  *request.mutable_open() = open;
  absl::Status given;
  while (writer->Write(request)) {
    absl::StatusOr<std::string> chunk = next_chunk();
    given = chunk.status();
    if (!given.ok() || chunk->empty()) break;
    request.set_data(*std::move(chunk));
  }
  if (given.ok()) {
    writer->WritesDone();
  } else {
    context.TryCancel();
  }
  const absl::Status status = FromGrpcStatus(writer->Finish(), options_.server);
  if (!given.ok()) return given;
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ExportSummary> Client::Export(const v1::ExportOptions& options,
                                                 const std::function<absl::StatusOr<std::string>()>& next_input,
                                                 const std::function<absl::Status(absl::string_view bytes)>& on_chunk) {
  grpc::ClientContext context;
  PrepareContext(options_, absl::InfiniteFuture(), &context);
  const auto stream = stub_->stub->Export(&context);
  v1::ExportRequest request;
  *request.mutable_options() = options;
  absl::Status caller;  // what the caller's functions said
  while (stream->Write(request) && next_input != nullptr) {
    absl::StatusOr<std::string> input = next_input();
    caller = input.status();
    if (!caller.ok() || input->empty()) break;
    request.set_input(*std::move(input));
  }
  if (caller.ok()) stream->WritesDone();
  v1::ExportSummary summary;
  uint64_t bytes = 0;
  v1::ExportResponse response;
  while (caller.ok() && stream->Read(&response)) {
    summary.MergeFrom(response.summary());
    bytes += response.chunk().size();
    if (!response.chunk().empty()) caller = on_chunk(response.chunk());
  }
  if (!caller.ok()) context.TryCancel();
  const absl::Status status = FromGrpcStatus(stream->Finish(), options_.server);
  if (!caller.ok()) return caller;
  if (!status.ok()) return status;
  if (bytes != summary.bytes()) {
    return absl::InternalError(absl::StrCat("the file has ", summary.bytes(), " bytes, and ", bytes, " came"));
  }
  return summary;
}

absl::Status Client::CheckHealth() {
  grpc::ClientContext context;
  PrepareContext(options_, absl::Now() + options_.call_timeout, &context);
  return CallHealthCheck(channel_, options_.server, &context);
}

}  // namespace calib::client
