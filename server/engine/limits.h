#ifndef CALIB_SERVER_ENGINE_LIMITS_H_
#define CALIB_SERVER_ENGINE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace calib::server {

// What one server takes on. A request past a limit is refused with LIMIT_EXCEEDED, whose metadata names the command
// line option given beside each field; what was accepted before stays.
struct Limits {
  size_t max_sessions = 10000;          // --max-sessions
  size_t max_layers = 100000;           // --max-layers, of one session
  size_t max_channels = 65536;          // --max-channels, of one layer
  size_t max_layer_name_bytes = 512;    // --max-layer-name-bytes
  size_t max_workers = 100000;          // --max-workers, of one session
  size_t max_toggles = 1000;            // --max-toggles, globs of one session that were switched on or off
  size_t max_lineage = 10000;           // --max-lineage, uids in the state files imported into one session
  size_t max_streams = 10000;           // --max-streams, open at once, those of state files and exports too
  uint64_t max_step_bytes = 256 << 20;  // --max-step-bytes, open synchronous steps of one session
  // --max-state-bytes, statistics of all sessions and of imports under way; may be passed by one update. Exports under
  // way may hold as much again.
  uint64_t max_state_bytes = 8ull << 30;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_LIMITS_H_
