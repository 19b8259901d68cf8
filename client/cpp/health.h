#ifndef CALIB_CLIENT_CPP_HEALTH_H_
#define CALIB_CLIENT_CPP_HEALTH_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace calib::client {

// Asks grpc.health.v1.Health/Check about the server as a whole. OK: SERVING. UNAVAILABLE: any other answer.
absl::Status CallHealthCheck(const std::shared_ptr<grpc::Channel>& channel, absl::string_view address,
                             grpc::ClientContext* context);

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_HEALTH_H_
