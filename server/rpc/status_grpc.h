#ifndef CALIB_SERVER_RPC_STATUS_GRPC_H_
#define CALIB_SERVER_RPC_STATUS_GRPC_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace calib::server {

// The one place where errors become gRPC's: code and message as they are, the ErrorInfo in the details trailer.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_STATUS_GRPC_H_
