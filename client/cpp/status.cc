#include "client/cpp/status.h"

#include <grpcpp/support/status.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::client {
namespace {

// Whether the limit is that of all sessions' memory, which can be freed again, and not one that the data breaks.
bool IsServerFull(const absl::Status& limit_exceeded) {
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(limit_exceeded);
  if (!info.has_value()) return false;
  const auto option = info->metadata().find("option");
  return option != info->metadata().end() && option->second == "--max-state-bytes";
}

// Numbers beyond the codes that exist become UNKNOWN, and so does OK, which cannot be an error's.
absl::StatusCode ErrorCode(int code) {
  return code <= 0 || code > 16 ? absl::StatusCode::kUnknown : static_cast<absl::StatusCode>(code);
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status, absl::string_view address) {
  if (status.ok()) return absl::OkStatus();
  const absl::StatusCode code = ErrorCode(status.error_code());
  absl::Status decoded = DecodeStatusDetails(code, status.error_message(), status.error_details());
  if (GetErrorInfo(decoded).has_value()) return decoded;
  if (code == absl::StatusCode::kUnavailable) {
    return absl::UnavailableError(absl::StrCat("cannot reach calibd at ", address, ": ", decoded.message()));
  }
  if (code == absl::StatusCode::kDeadlineExceeded) {
    return absl::DeadlineExceededError(absl::StrCat("no answer from calibd at ", address, " in time"));
  }
  return decoded;
}

absl::Status FromRefusal(const v1::Refusal& refusal) {
  v1::Status details;
  google::protobuf::Any* const detail = details.add_details();
  detail->set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  refusal.info().SerializeToString(detail->mutable_value());
  return DecodeStatusDetails(ErrorCode(refusal.code()), refusal.message(), details.SerializeAsString());
}

bool CanReopenAfter(const absl::Status& end_of_stream) {
  switch (end_of_stream.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return true;
    default:
      return false;
  }
}

RefusalMeaning MeaningOf(const absl::Status& refusal) {
  switch (GetReason(refusal)) {
    case v1::ERROR_REASON_SEQUENCE_GAP:
    case v1::ERROR_REASON_SEQUENCE_OVERLAP:
    case v1::ERROR_REASON_SERVER_DRAINING:
    case v1::ERROR_REASON_STORE_FAILED:
      return RefusalMeaning::kTryAgain;
    case v1::ERROR_REASON_SESSION_SEALED:
    case v1::ERROR_REASON_SESSION_DELETED:
    case v1::ERROR_REASON_SESSION_NOT_FOUND:
    case v1::ERROR_REASON_WORKER_FENCED:
      return RefusalMeaning::kWorkerEnds;
    case v1::ERROR_REASON_LIMIT_EXCEEDED:
      return IsServerFull(refusal) ? RefusalMeaning::kTryAgain : RefusalMeaning::kDataRefused;
    default:
      return RefusalMeaning::kDataRefused;
  }
}

}  // namespace calib::client
