#ifndef CALIB_SERVER_ENGINE_STREAM_LISTENER_H_
#define CALIB_SERVER_ENGINE_STREAM_LISTENER_H_

#include <memory>

#include "absl/status/status.h"
#include "calib/v1/observe.pb.h"

namespace calib::server {

// What happens to an open stream from elsewhere. Called from any thread, also before ObserveStream::Open has returned,
// never under a lock of the engine; must not block. A call may still be under way when the stream is closed, so
// implementations are held by shared pointers and outlive their stream.
class StreamListener {
 public:
  virtual ~StreamListener() = default;

  // More of the stream's updates, or of the session's synchronous steps, are durable; ObserveStream::ack() says how
  // far.
  virtual void OnDurable() = 0;
  // A message about synchronous steps for the worker: StepGrids, StepResult, World, or the Refusal of a step that
  // failed. Those of different steps may come in any order.
  virtual void OnStep(std::shared_ptr<const v1::ObserveResponse> message) = 0;
  // The stream must end with this status: WORKER_FENCED, SESSION_DELETED.
  virtual void OnEnd(const absl::Status& status) = 0;
  // The server is shutting down: read no more, finish what was read, wait until it is durable, send a last Ack, end
  // with SERVER_DRAINING.
  virtual void OnDrain() = 0;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STREAM_LISTENER_H_
