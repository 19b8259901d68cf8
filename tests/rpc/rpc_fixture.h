#ifndef CALIB_TESTS_RPC_RPC_FIXTURE_H_
#define CALIB_TESTS_RPC_RPC_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "proto/codec/error.h"
#include "tests/support/in_process_server.h"

namespace calib::server {

// A client's context with a deadline that only a hanging server reaches.
std::unique_ptr<grpc::ClientContext> TestContext();

// The reason in a failed call's details.
v1::ErrorReason ReasonOf(const grpc::Status& status);
v1::ErrorReason ReasonOf(const v1::ErrorInfo& info);

// Messages of an Observe stream.
v1::ObserveRequest OpenMessage(const std::string& session, const std::string& worker);
v1::ObserveRequest RegisterMessage(uint32_t first_handle, const std::vector<std::string>& names);
// One update [first, last] of a layer with a minmax observer per tensor: `count` values from `min` to `max`.
v1::ObserveRequest RangeMessage(uint64_t first, uint64_t last, uint32_t handle, uint64_t count, float min, float max);
// The same as a whole raw tensor of float32.
v1::ObserveRequest RawMessage(uint64_t first, uint64_t last, uint32_t handle, const std::vector<float>& values);

// One Observe stream, used from one thread.
class ObserveClient {
 public:
  explicit ObserveClient(v1::Calibration::Stub* stub)
      : context_(TestContext()), stream_(stub->Observe(context_.get())) {}
  ~ObserveClient();

  bool Write(const v1::ObserveRequest& request) { return stream_->Write(request); }
  void WritesDone() { stream_->WritesDone(); }
  void Cancel() { context_->TryCancel(); }
  // The next message; unset at the stream's end.
  std::optional<v1::ObserveResponse> Read();
  // Opens and reads the Welcome.
  v1::Welcome Open(const std::string& session, const std::string& worker);
  // Reads on until an Ack for which `enough` holds; other acks are dropped, anything else fails the test.
  v1::Ack ReadAck(const std::function<bool(const v1::Ack&)>& enough);
  // Reads on until a refusal; acks are dropped.
  v1::Refusal ReadRefusal();
  // Reads to the end; the last Ack, if there was one, in `last_ack`.
  grpc::Status Finish(v1::Ack* last_ack = nullptr);

 private:
  const std::unique_ptr<grpc::ClientContext> context_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::ObserveRequest, v1::ObserveResponse>> stream_;
  bool finished_ = false;
};

// A server with the session "s", whose layers "range/*" have a minmax observer, "skip/*" none, "channels/*" a histogram
// per channel along axis 0, "ema/*" PyTorch's moving average with weight 1/2, "ema_channels/*" MegEngine's along the
// last axis, "reference/*" MXNet's histogram, "passive/*" set parameters, and all others a histogram per tensor.
class RpcTest : public ::testing::Test {
 protected:
  RpcTest() : RpcTest(test::InProcessServerOptions()) {}
  explicit RpcTest(const test::InProcessServerOptions& options);

  // A stub on a connection of its own.
  std::unique_ptr<v1::Calibration::Stub> NewStub(grpc::ChannelArguments arguments = {});
  static v1::SessionConfig Config();
  void CreateSession(const std::string& name);
  // Sends layers with data through a stream of its own and waits until it is durable.
  void Push(const std::string& session, const std::vector<std::string>& layers, const std::vector<float>& values);
  // Waits for what announces nothing, such as a gauge: looks again after each of a row of calls, for a minute at most.
  ::testing::AssertionResult Eventually(const std::function<bool()>& condition);

  test::InProcessServer server_;
  std::unique_ptr<v1::Calibration::Stub> stub_;
};

// Calls a unary method with a context of its own.
template <typename Request, typename Response>
grpc::Status Call(v1::Calibration::Stub* stub,
                  grpc::Status (v1::Calibration::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                  const Request& request, Response* response) {
  return (stub->*method)(TestContext().get(), request, response);
}

#define EXPECT_REASON(status, reason_name, status_code)                                                      \
  do {                                                                                                       \
    const grpc::Status checked_status = (status);                                                            \
    EXPECT_EQ(checked_status.error_code(), grpc::StatusCode::status_code) << checked_status.error_message(); \
    EXPECT_EQ(ReasonName(ReasonOf(checked_status)), #reason_name) << checked_status.error_message();         \
    EXPECT_FALSE(checked_status.error_message().empty());                                                    \
  } while (false)

}  // namespace calib::server

#endif  // CALIB_TESTS_RPC_RPC_FIXTURE_H_
