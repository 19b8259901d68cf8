#ifndef CALIB_SERVER_ENGINE_STATE_IMPORT_H_
#define CALIB_SERVER_ENGINE_STATE_IMPORT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/codec/state_file.h"
#include "server/engine/engine.h"
#include "server/engine/session_state.h"

namespace calib::server {

// A state file on its way into a session: what comes is checked and collected, among the server's state bytes, and
// merged in one go. Dropped before that, it leaves nothing behind. Not thread-safe.
class StateImport {
 public:
  // `engine` must outlive it.
  explicit StateImport(Engine* engine);
  ~StateImport();
  StateImport(const StateImport&) = delete;
  StateImport& operator=(const StateImport&) = delete;

  // The next bytes of the file. STATE_FILE_INVALID, LIMIT_EXCEEDED.
  absl::Status Add(absl::string_view bytes);
  // The file's end: merges it. STATE_FILE_INVALID, and as Session::MergeState. Once.
  absl::StatusOr<StateMerge> Merge(Session* session, bool skip_unmergeable);

 private:
  absl::Status TakeHeader(const v1::StateHeader& header);
  absl::Status TakeLayer(std::string name, LayerStatistics statistics);
  // Counts what is held now; LIMIT_EXCEEDED when the server has no memory for it.
  absl::Status Account();

  Engine* const engine_;
  SessionState state_;
  uint64_t layer_bytes_ = 0;  // of state_.layers
  int64_t counted_ = 0;       // among the server's state bytes
  StateFileReader reader_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STATE_IMPORT_H_
