#include "server/rpc/status_grpc.h"

#include <string>

#include "proto/codec/error.h"

namespace calib::server {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      EncodeStatusDetails(status));
}

}  // namespace calib::server
