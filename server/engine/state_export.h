#ifndef CALIB_SERVER_ENGINE_STATE_EXPORT_H_
#define CALIB_SERVER_ENGINE_STATE_EXPORT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/codec/state_file.h"
#include "server/engine/engine.h"

namespace calib::server {

// A session's statistics at one point between two updates, on their way out as a state file. Updates go on meanwhile;
// what they change is held twice until the export is over, which is bounded: counters.export_bytes. Not thread-safe.
class StateExport {
 public:
  // `engine` must outlive it. SESSION_NOT_FOUND, SESSION_DELETED, LIMIT_EXCEEDED (too many bytes in exports under way).
  static absl::StatusOr<std::unique_ptr<StateExport>> Begin(Engine* engine, const std::string& session);
  ~StateExport();
  StateExport(const StateExport&) = delete;
  StateExport& operator=(const StateExport&) = delete;

  // Appends the next piece of the file, mostly of about 1 MiB at most; false at the end. LIMIT_EXCEEDED: see
  // StateFileWriter::Next.
  absl::StatusOr<bool> Next(std::string* bytes);

 private:
  StateExport(Engine* engine, StateCut cut);

  Engine* const engine_;
  const int64_t bytes_;
  StateFileWriter writer_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STATE_EXPORT_H_
