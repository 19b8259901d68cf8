#ifndef CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_
#define CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/v1/observe.pb.h"
#include "proto/codec/statistics_codec.h"
#include "server/engine/session.h"
#include "server/engine/stream_listener.h"

namespace calib::server {

class Engine;

// One worker's stream, without the transport: the state behind an Observe call. rpc/ moves the messages.
//
// Handle() and Close() are for one thread at a time; progress() is thread-safe.
class ObserveStream {
 public:
  // Opens the stream: SERVER_DRAINING, SESSION_NOT_FOUND, INVALID_FIELD, LIMIT_EXCEEDED. `listener` is kept until Close.
  static absl::StatusOr<std::unique_ptr<ObserveStream>> Open(Engine* engine, const v1::Open& open,
                                                             std::shared_ptr<StreamListener> listener);
  ~ObserveStream();  // Close()
  ObserveStream(const ObserveStream&) = delete;
  ObserveStream& operator=(const ObserveStream&) = delete;

  const v1::Welcome& welcome() const { return welcome_; }

  // Takes a RegisterLayers or an Update. OK: applied, or a repetition; refusal() is then not meaningful. An error with
  // reason WORKER_FENCED, SESSION_DELETED or STREAM_NOT_OPEN (a second Open, an empty message) must end the stream; every other error is a
  // refusal, nothing of the message was applied, and MakeRefusal() words it for the client.
  absl::Status Handle(const v1::ObserveRequest& request);
  v1::Refusal MakeRefusal(const v1::ObserveRequest& request, const absl::Status& status) const;
  static bool EndsStream(const absl::Status& status);

  // The newest acknowledgement.
  v1::Ack ack() const;
  // Calls `done` once everything that Handle has applied is durable, or with the error; asks for a checkpoint.
  void WhenDurable(Session::DurableCallback done);

  // Unregisters; idempotent.
  void Close();

 private:
  ObserveStream(Engine* engine, std::shared_ptr<Session> session);

  absl::Status HandleRegister(const v1::RegisterLayers& request);
  absl::Status HandleUpdate(const v1::Update& update);
  absl::Status HandleStatistics(const v1::Update& update);
  absl::Status HandleTensor(const v1::Update& update);
  absl::StatusOr<LayerBinding*> FindBinding(uint32_t handle);

  Engine* const engine_;
  const std::shared_ptr<Session> session_;
  v1::Welcome welcome_;
  uint32_t worker_ = 0;
  bool open_ = false;
  std::deque<LayerBinding> bindings_;  // by handle
  StatisticsReader reader_;
  DecodedUpdate update_;
  std::atomic<uint64_t> values_ignored_{0};
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_
