#include "client/cpp/durability.h"

#include <grpcpp/client_context.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "calib/v1/calibration_service.grpc.pb.h"
#include "client/cpp/channel.h"

namespace calib::client {
namespace {

// Between two requests.
constexpr absl::Duration kDurabilityInterval = absl::Seconds(1);
// What one may take.
constexpr absl::Duration kDurabilityTimeout = absl::Seconds(10);

void RequestDurability(const Client& client, const std::string& session, absl::Time deadline) {
  grpc::ClientContext context;
  PrepareContext(client.options(), deadline, &context);
  v1::FlushRequest request;
  request.set_session(session);
  v1::FlushResponse response;
  static_cast<void>(v1::Calibration::NewStub(client.channel())->Flush(&context, request, &response));
}

}  // namespace

void AwaitDurability(const Client& client, const std::string& session, absl::Time deadline, absl::Mutex* mutex,
                     absl::CondVar* progress, absl::Time* next_request) {
  const absl::Time now = absl::Now();
  if (now < *next_request) {
    progress->WaitWithDeadline(mutex, std::min(deadline, *next_request));
    return;
  }
  *next_request = now + kDurabilityInterval;
  mutex->Unlock();
  RequestDurability(client, session, std::min(deadline, now + kDurabilityTimeout));
  mutex->Lock();
}

}  // namespace calib::client
