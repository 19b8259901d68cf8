#ifndef CALIB_CLIENT_CPP_STATUS_H_
#define CALIB_CLIENT_CPP_STATUS_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "calib/v1/observe.pb.h"

namespace grpc {
class Status;
}  // namespace grpc

namespace calib::client {

// Where the outcome of calls becomes absl::Status, and what each outcome means to a worker.

// The status of a call to the server at `address`, with its ErrorInfo. Where the server had no word,
// UNAVAILABLE says "cannot reach calibd at ADDRESS: ..." and DEADLINE_EXCEEDED "no answer from calibd at ADDRESS in
// time".
absl::Status FromGrpcStatus(const grpc::Status& status, absl::string_view address);

// The error of a refusal, with its ErrorInfo. Never OK.
absl::Status FromRefusal(const v1::Refusal& refusal);

// Whether an Observe stream that ended so is worth another: yes for UNAVAILABLE, RESOURCE_EXHAUSTED (too many streams),
// DEADLINE_EXCEEDED, CANCELLED, INTERNAL, UNKNOWN and OK, as networks and restarting servers produce them. Every other
// code ends the worker: WORKER_FENCED, SESSION_NOT_FOUND, SESSION_DELETED, INVALID_FIELD, STREAM_NOT_OPEN, credentials.
bool CanReopenAfter(const absl::Status& end_of_stream);

// What a worker does about a refused message.
enum class RefusalMeaning {
  kDataRefused,  // drop what was refused, report it, go on in a new stream
  kTryAgain,  // the data is fine: SEQUENCE_GAP, SEQUENCE_OVERLAP, SERVER_DRAINING, STORE_FAILED; resume in a new stream
  kWorkerEnds,  // SESSION_SEALED, SESSION_DELETED, WORKER_FENCED: nothing more will be taken
};
RefusalMeaning MeaningOf(const absl::Status& refusal);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_STATUS_H_
