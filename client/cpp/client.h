#ifndef CALIB_CLIENT_CPP_CLIENT_H_
#define CALIB_CLIENT_CPP_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "calib/v1/calibration_service.pb.h"

namespace grpc {
class Channel;
class ChannelCredentials;
}  // namespace grpc

namespace calib::client {

struct ClientOptions {
  // HOST:PORT of the server.
  std::string server = "127.0.0.1:7070";
  // Null: plain text.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // Sent with every call: (lower-case key, value).
  std::vector<std::pair<std::string, std::string>> metadata;
  // Of each unary call, retries included.
  absl::Duration call_timeout = absl::Seconds(30);
  // Unary calls that fail with UNAVAILABLE are repeated with backoff until call_timeout; every call of the service can
  // be repeated. False, for people who wait: a server that is not there is reported at once, also by Worker::Open.
  bool retry_unavailable = true;
};

// A calibd server's calls, but for Observe. Errors carry the server's ErrorInfo (proto/codec/error.h); a server that
// can't be reached gives UNAVAILABLE with its address. Thread-safe; workers that share one share its connection.
class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  absl::StatusOr<v1::CreateSessionResponse> CreateSession(const v1::CreateSessionRequest& request);
  absl::StatusOr<v1::GetSessionResponse> GetSession(const v1::GetSessionRequest& request);
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(const v1::ListSessionsRequest& request);
  absl::StatusOr<v1::SealSessionResponse> SealSession(const v1::SealSessionRequest& request);
  absl::StatusOr<v1::DeleteSessionResponse> DeleteSession(const v1::DeleteSessionRequest& request);
  absl::StatusOr<v1::SetObserversEnabledResponse> SetObserversEnabled(const v1::SetObserversEnabledRequest& request);
  absl::StatusOr<v1::SetQParamsResponse> SetQParams(const v1::SetQParamsRequest& request);
  // Sure of its effect also when an answer was lost: a repetition that finds the new world in place gives it.
  absl::StatusOr<v1::SetWorldResponse> SetWorld(const v1::SetWorldRequest& request);
  absl::StatusOr<v1::FlushResponse> Flush(const v1::FlushRequest& request);
  absl::StatusOr<v1::ComputeQParamsResponse> ComputeQParams(const v1::ComputeQParamsRequest& request);
  absl::StatusOr<v1::CompareMethodsResponse> CompareMethods(const v1::CompareMethodsRequest& request);
  absl::StatusOr<v1::GetStatisticsResponse> GetStatistics(const v1::GetStatisticsRequest& request);

  // Calls `on_state` for each state until it returns false (OK), the session is sealed (OK) or the call fails. No
  // deadline and no repetition.
  absl::Status WatchQParams(const v1::WatchQParamsRequest& request,
                            const std::function<bool(const v1::WatchQParamsResponse&)>& on_state);

  // Calls `on_chunk` with the next bytes of the session's state file, at most 1 MiB; an error that it returns ends the
  // call and is returned. No deadline and no repetition. The bytes are not checked: StateFileReader does that.
  absl::Status ExportState(const v1::ExportStateRequest& request,
                           const std::function<absl::Status(absl::string_view bytes)>& on_chunk);
  // Sends what `next_chunk` gives, at most 1 MiB a time, until it gives nothing; an error that it returns ends the
  // call, with nothing merged, and is returned. No deadline and no repetition; the caller may repeat it from the file's
  // first byte.
  absl::StatusOr<v1::ImportStateResponse> ImportState(const v1::StateImport& open,
                                                      const std::function<absl::StatusOr<std::string>()>& next_chunk);

  // Sends the options and what `next_input` gives, at most 1 MiB a time, until it gives nothing; null: there is no
  // input. Then calls `on_chunk` with the file's next bytes, at most 1 MiB. An error that either returns ends the call
  // and is returned. OK: the file came whole. No deadline and no repetition.
  absl::StatusOr<v1::ExportSummary> Export(const v1::ExportOptions& options,
                                           const std::function<absl::StatusOr<std::string>()>& next_input,
                                           const std::function<absl::Status(absl::string_view bytes)>& on_chunk);

  // OK when the server answers SERVING to grpc.health.v1; UNAVAILABLE when it is NOT_SERVING or not there.
  absl::Status CheckHealth();

  const ClientOptions& options() const { return options_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  struct Stub;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_CLIENT_H_
