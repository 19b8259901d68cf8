#ifndef CALIB_TESTS_ENGINE_SYNCHRONOUS_FIXTURE_H_
#define CALIB_TESTS_ENGINE_SYNCHRONOUS_FIXTURE_H_

#include <gmock/gmock.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {

// A clock that a test moves.
class ManualClock : public Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch() + Elapsed(); }
  absl::Duration Elapsed() const override { return absl::Milliseconds(elapsed_ms_.load()); }
  void Advance(absl::Duration duration) { elapsed_ms_ += absl::ToInt64Milliseconds(duration); }

 private:
  std::atomic<int64_t> elapsed_ms_{0};
};

// Layers of every observer that takes part in synchronous steps, by name, on a stream's handles.
const std::vector<std::string>& SynchronousLayers();

inline constexpr uint32_t kEmaHandle = 1;
inline constexpr uint32_t kMegengineHandle = 4;
inline constexpr uint32_t kMxnetHandle = 5;
inline constexpr uint32_t kLearnedHandle = 6;
inline constexpr uint32_t kReplicatedHandle = 7;

// What a rank observed of some layers in a step.
struct RankStep {
  std::vector<std::pair<uint32_t, std::vector<float>>> tensors;  // by handle, rising
};

// Sessions with synchronous steps over one engine, whose clock the test moves.
class SynchronousFixture : public EngineFixture {
 protected:
  SynchronousFixture();

  std::shared_ptr<Session> CreateSynchronous(const SynchronousOptions& options, const std::string& name = "s");
  // A rank's stream with the layers registered.
  TestStream OpenRank(uint32_t rank, const std::string& worker = "", const std::string& session = "s");
  absl::StatusOr<TestStream> TryOpenRank(uint32_t rank, const std::string& worker, const std::string& session);

  static RankStep Ema(std::vector<float> values) { return {{{kEmaHandle, std::move(values)}}}; }
  static absl::Status Give(TestStream* stream, uint64_t step, const RankStep& observed, uint64_t epoch = 1) {
    return stream->Send(Contribution(epoch, step, observed));
  }
  static v1::ErrorReason ReasonOf(const absl::Status& status) { return GetReason(status); }
  static EmaRange EmaOf(const Session& session) {
    return session.GetLayer("ema")->statistics.channels().at(0).ema.value();
  }

  // The contribution of what was observed; without what is counted later.
  static v1::ObserveRequest Contribution(uint64_t epoch, uint64_t step, const RankStep& observed);
  static v1::ObserveRequest GradientContribution(uint64_t epoch, uint64_t step, uint32_t handle,
                                                 const std::vector<double>& scale, uint64_t elements,
                                                 double weight = 1);
  // The counts that `grids` ask for.
  static v1::ObserveRequest Counts(const v1::StepGrids& grids, const RankStep& observed);

  // What the stream was told, in order. `grids` are taken out and answered.
  static std::vector<v1::ObserveResponse> Told(TestStream* stream);

  // What the deadlines say now, as the engine's timer would do.
  void Expire(Session* session);

  ManualClock clock_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_SYNCHRONOUS_FIXTURE_H_
