#ifndef CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_
#define CALIB_SERVER_ENGINE_OBSERVE_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
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

  // Takes a RegisterLayers, an Update, or a rank's part of a synchronous step. OK: applied, taken, or a repetition. An
  // error for which EndsStream holds (WORKER_FENCED, SESSION_DELETED, STREAM_NOT_OPEN: a second Open, an empty message)
  // must end the stream; every other error is a refusal: nothing of the message was applied, and MakeRefusal() words it
  // for the client.
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
  ObserveStream(Engine* engine, uint64_t id, std::shared_ptr<Session> session, const Session::OpenResult& opened,
                std::optional<uint32_t> rank);

  absl::Status HandleRegister(const v1::RegisterLayers& request);
  // Synchronous steps. (observe_stream_step.cc)
  absl::Status HandleContribution(const v1::StepContribution& contribution);
  absl::Status HandleCounts(const v1::StepCounts& counts);
  absl::Status DecodeObserved(const v1::StatisticsBatch& batch, StepUpdate* update);
  // `observed`: the layers of which the same message has statistics.
  absl::Status DecodeGradients(const v1::GradientBatch& batch,
                               const google::protobuf::RepeatedField<uint32_t>& observed, StepUpdate* update);
  StepSender sender() const { return {worker_, welcome_.incarnation(), rank_}; }
  absl::Status HandleUpdate(const v1::Update& update);
  absl::Status HandleStatistics(const v1::Update& update);
  absl::Status HandleTensor(const v1::Update& update);
  // A whole tensor for an observer that depends on order.
  absl::Status HandleStep(const v1::Update& update, LayerBinding* binding, const TensorView& tensor);
  static absl::Status PassiveTakesNoData(const LayerBinding& binding);
  absl::Status CheckAxis(const v1::TensorChunk& chunk, const LayerBinding& binding) const;
  absl::Status Apply(const v1::Update& update);
  absl::StatusOr<LayerBinding*> FindBinding(uint32_t handle);
  // STEP_REQUIRED when the layer takes synchronous steps alone.
  absl::Status CheckStepless(const LayerBinding& binding) const;
  // An error about a handle, with the name that the handle stands for.
  absl::Status NameLayer(const absl::Status& status) const;

  Engine* const engine_;
  const uint64_t id_;  // of the engine
  const std::shared_ptr<Session> session_;
  const uint32_t worker_;
  const std::optional<uint32_t> rank_;
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
