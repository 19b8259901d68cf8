#include "client/cpp/durability.h"

#include <grpcpp/client_context.h>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "client/cpp/channel.h"

namespace calib::client {

void RequestDurability(const Client& client, const std::string& session, absl::Time deadline) {
  grpc::ClientContext context;
  PrepareContext(client.options(), deadline, &context);
  v1::FlushRequest request;
  request.set_session(session);
  v1::FlushResponse response;
  static_cast<void>(v1::Calibration::NewStub(client.channel())->Flush(&context, request, &response));
}

}  // namespace calib::client
