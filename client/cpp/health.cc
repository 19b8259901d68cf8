#include "client/cpp/health.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "client/cpp/status.h"
#include "google/protobuf/io/coded_stream.h"

namespace calib::client {
namespace {

// Field 1, varint: HealthCheckResponse.status, which is UNKNOWN (0) when left out.
constexpr uint32_t kStatusTag = 1 << 3;
constexpr uint32_t kServing = 1;

uint32_t ReadStatus(const grpc::ByteBuffer& response) {
  grpc::Slice slice;
  if (!response.DumpToSingleSlice(&slice).ok()) return 0;
  google::protobuf::io::CodedInputStream input(slice.begin(), static_cast<int>(slice.size()));
  uint32_t status = 0;
  if (input.ReadTag() != kStatusTag || !input.ReadVarint32(&status)) return 0;
  return status;
}

}  // namespace

absl::Status CallHealthCheck(const std::shared_ptr<grpc::Channel>& channel, absl::string_view address,
                             grpc::ClientContext* context) {
  grpc::GenericStub stub(channel);
  // The empty HealthCheckRequest asks about the whole server.
  const grpc::Slice nothing(static_cast<size_t>(0));
  const grpc::ByteBuffer request(&nothing, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status result) {
                   status = std::move(result);
                   done.Notify();
                 });
  done.WaitForNotification();
  if (!status.ok()) return FromGrpcStatus(status, address);
  if (ReadStatus(response) == kServing) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("calibd at ", address, " is not serving: it is shutting down, or its store failed"));
}

}  // namespace calib::client
