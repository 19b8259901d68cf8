#include "server/rpc/unary_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/rpc/status_grpc.h"

namespace calib::server {

void UnaryCall::Answer(const absl::Status& status) {
  const grpc::Status answer = ToGrpcStatus(status);
  CountCall(calls_->counters_, method_, answer.error_code());
  calls_->open_.fetch_sub(1, std::memory_order_relaxed);
  Finish(answer);
}

grpc::ServerUnaryReactor* UnaryCalls::Start(Method method, std::function<void(UnaryCall*)> work) {
  UnaryCall* const call = new UnaryCall(this, method);
  if (open_.fetch_add(1, std::memory_order_relaxed) >= max_open_) {
    call->Answer(MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED,
                           absl::StrCat("the server has ", max_open_,
                                        " calls open, as many as it takes: retry with "
                                        "backoff, or raise its option --max-calls"),
                           {{"option", "--max-calls"}, {"limit", absl::StrCat(max_open_)}}));
    return call;
  }
  pool_->Schedule([call, work = std::move(work)] {
    if (call->abandoned()) {
      call->Answer(absl::CancelledError("the caller gave up, or its deadline passed"));
    } else {
      work(call);
    }
  });
  return call;
}

grpc::ServerUnaryReactor* UnaryCalls::StartAndAnswer(Method method,
                                                     std::function<absl::Status(const UnaryCall&)> work) {
  return Start(method, [work = std::move(work)](UnaryCall* call) { call->Answer(work(*call)); });
}

}  // namespace calib::server
