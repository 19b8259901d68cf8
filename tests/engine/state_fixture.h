#ifndef CALIB_TESTS_ENGINE_STATE_FIXTURE_H_
#define CALIB_TESTS_ENGINE_STATE_FIXTURE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/session_state.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {

// Sessions whose statistics go from one to another as state files.
class StateFixture : public EngineFixture {
 protected:
  StateFixture() { Start(); }

  std::shared_ptr<Session> CreateSessionOf(const std::string& name, const SessionConfig& config);
  // One update of a layer, by a worker with a stream of its own for it.
  void Feed(const std::string& session, const std::string& layer, const std::vector<float>& values);
  // The state file of a session.
  std::string Export(const std::string& session);
  // Merges a file into a session; the outcome.
  absl::StatusOr<StateMerge> Import(const std::string& session, const std::string& file, bool skip_unmergeable = false);
  // Expects the refusal, naming `named`, and that the session did not change.
  void ExpectRefused(const std::string& session, const std::string& file, v1::ErrorReason reason,
                     const std::string& named);
  LayerStatistics StatisticsOf(const std::string& session, const std::string& layer);
  // Everything that a session's layers hold.
  std::vector<std::pair<std::string, LayerStatistics>> LayersOf(const std::string& session);

 private:
  uint64_t next_worker_ = 0;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_STATE_FIXTURE_H_
