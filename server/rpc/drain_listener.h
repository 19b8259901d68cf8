#ifndef CALIB_SERVER_RPC_DRAIN_LISTENER_H_
#define CALIB_SERVER_RPC_DRAIN_LISTENER_H_

#include <memory>

#include "server/engine/stream_listener.h"

namespace calib::server {

// Of a stream that the engine counts, and that belongs to no worker: only a drain concerns it.
class DrainListener : public StreamListener {
 public:
  void OnDurable() final {}
  void OnStep(std::shared_ptr<const v1::ObserveResponse>) final {}
  void OnEnd(const absl::Status&) final {}
};

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_DRAIN_LISTENER_H_
