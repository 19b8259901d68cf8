#ifndef CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_
#define CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string_view>
#include <unordered_set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/v1/observe.pb.h"
#include "proto/codec/statistics_codec.h"
#include "server/engine/layer.h"
#include "server/engine/session.h"
#include "server/engine/stream_listener.h"
#include "server/engine/update.h"

namespace calib::server {

class Engine;

// One worker's stream, without the transport: the state behind an Observe call. rpc/ moves the messages.
//
// Handle() and Close() are for one thread at a time; ack(), MakeRefusal() and WhenDurable() are thread-safe.
class ObserveStream {
 public:
  // Opens the stream: SERVER_DRAINING, SESSION_NOT_FOUND, SESSION_DELETED, INVALID_FIELD, LIMIT_EXCEEDED. `listener` is
  // kept until Close and may be called before this returns.
  static absl::StatusOr<std::unique_ptr<ObserveStream>> Open(Engine* engine, const v1::Open& open,
                                                             std::shared_ptr<StreamListener> listener);
  ~ObserveStream();  // Close()
  ObserveStream(const ObserveStream&) = delete;
  ObserveStream& operator=(const ObserveStream&) = delete;

  const v1::Welcome& welcome() const { return welcome_; }

  // Takes a RegisterLayers or an Update. OK: applied, or a repetition. An error for which EndsStream holds
  // (WORKER_FENCED, SESSION_DELETED, STREAM_NOT_OPEN: a second Open, an empty message) must end the stream; every other
  // error is a refusal: nothing of the message was applied, and MakeRefusal() words it for the client.
  //
  // A name is registered once a stream; a second handle for it is refused (INVALID_FIELD).
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
  ObserveStream(Engine* engine, uint64_t id, std::shared_ptr<Session> session, const Session::OpenResult& opened);

  absl::Status HandleRegister(const v1::RegisterLayers& request);
  absl::Status HandleUpdate(const v1::Update& update);
  absl::Status HandleStatistics(const v1::Update& update);
  absl::Status HandleTensor(const v1::Update& update);
  // A whole tensor for an observer that depends on order.
  absl::Status HandleStep(const v1::Update& update, LayerBinding* binding, const TensorView& tensor);
  static absl::Status PassiveTakesNoData(const LayerBinding& binding);
  absl::Status CheckAxis(const v1::TensorChunk& chunk, const LayerBinding& binding) const;
  absl::Status Apply(const v1::Update& update);
  absl::StatusOr<LayerBinding*> FindBinding(uint32_t handle);
  // An error about a handle, with the name that the handle stands for.
  absl::Status NameLayer(const absl::Status& status) const;

  Engine* const engine_;
  const uint64_t id_;  // of the engine
  const std::shared_ptr<Session> session_;
  const uint32_t worker_;
  v1::Welcome welcome_;
  bool closed_ = false;
  std::deque<LayerBinding> bindings_;           // by handle
  std::unordered_set<std::string_view> names_;  // of bindings_, which holds them
  StatisticsReader reader_;
  DecodedUpdate update_;
  std::atomic<uint64_t> values_ignored_{0};
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_
