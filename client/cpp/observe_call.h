#ifndef CALIB_CLIENT_CPP_OBSERVE_CALL_H_
#define CALIB_CLIENT_CPP_OBSERVE_CALL_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "calib/v1/observe.pb.h"
#include "client/cpp/client.h"

namespace calib::client {

// A server that takes a connection and then says nothing is given up after this.
inline constexpr absl::Duration kWelcomeTimeout = absl::Seconds(20);
// A stream that lived this long shows that the server is well: the next wait begins from the least again.
inline constexpr absl::Duration kSteadyStream = absl::Seconds(10);

// One Observe call over gRPC. One thread may write while another reads; Cancel is for any thread.
class ObserveCall {
 public:
  // Starts the call. `client` must outlive it. `wait_for_ready`: while the server can't be reached the call lives and
  // tries to, so that it is there as soon as the server is; else it ends. (Nothing drives gRPC's attempts to connect
  // while there is no call, but a look every five seconds.)
  ObserveCall(const Client& client, bool wait_for_ready);
  ~ObserveCall();
  ObserveCall(const ObserveCall&) = delete;
  ObserveCall& operator=(const ObserveCall&) = delete;

  // Block while the server does not take, or has not sent, a message; false when the call has ended.
  bool Write(const v1::ObserveRequest& request);
  bool Read(v1::ObserveResponse* response);
  // Half-closes: no Write after it.
  void WritesDone();
  // Ends the call from this side; interrupts what blocks.
  void Cancel();
  // How the call ended. Once, after Read has returned false and while nothing else is going on.
  absl::Status Finish();

 private:
  struct Call;
  const Client& client_;
  const std::unique_ptr<Call> call_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_OBSERVE_CALL_H_
