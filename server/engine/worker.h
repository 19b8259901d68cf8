#ifndef CALIB_SERVER_ENGINE_WORKER_H_
#define CALIB_SERVER_ENGINE_WORKER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "server/engine/stream_listener.h"
#include "server/store/store.h"

namespace calib::server {

// A worker of a session. Guarded by its session's lock.
struct Worker {
  WorkerRecord record;
  uint64_t version = 0;                      // session version of the last change
  uint64_t cut_applied = 0;                  // `applied` in the newest cut
  uint64_t durable = 0;                      // last unit that is durable
  std::optional<uint32_t> rank;              // that its newest stream was opened with
  uint64_t step = 0;                         // greatest synchronous step that this stream contributed to
  std::shared_ptr<StreamListener> listener;  // of the open stream of record.incarnation; null when there is none
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_WORKER_H_
