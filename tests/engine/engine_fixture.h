#ifndef CALIB_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define CALIB_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "server/base/mutex.h"
#include "server/engine/engine.h"
#include "server/engine/observe_stream.h"
#include "server/store/memory_store.h"

namespace calib::server::test {

// Waits for conditions on what it guards, with a deadline far beyond what any test takes.
class Event {
 public:
  void Set() ABSL_LOCKS_EXCLUDED(mutex_);
  // False after the deadline.
  bool Wait() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Mutex mutex_;
  CondVar changed_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

// Remembers what a stream was told.
class TestListener : public StreamListener {
 public:
  void OnDurable() override;
  void OnStep(std::shared_ptr<const v1::ObserveResponse> message) override;
  void OnEnd(const absl::Status& status) override;
  void OnDrain() override;

  int durable_calls() const;
  // Takes out what was told about synchronous steps.
  std::vector<std::shared_ptr<const v1::ObserveResponse>> TakeSteps();
  absl::Status end_status() const;
  int drain_calls() const;
  // Called within every OnDurable, and every OnStep.
  void SetOnDurable(std::function<void()> callback);
  void SetOnStep(std::function<void()> callback);

 private:
  mutable Mutex mutex_;
  int durable_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int drain_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<const v1::ObserveResponse>> steps_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_durable_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_step_ ABSL_GUARDED_BY(mutex_);
};

// What a test makes the store do. Shared by the TestStores of successive engines, and outlives them.
class StoreControl {
 public:
  void FailCommits(absl::Status status);
  void FailDeletes(absl::Status status);
  // Run at the beginning of every commit, for each of its sessions, or delete, in its thread.
  void SetOnCommit(std::function<void(const SessionCheckpoint&)> callback);
  void SetOnDelete(std::function<void()> callback);
  MemoryStore& memory() { return memory_; }

 private:
  friend class TestStore;
  MemoryStore memory_{{.retain = true}};
  Mutex mutex_;
  absl::Status commit_status_ ABSL_GUARDED_BY(mutex_);
  absl::Status delete_status_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const SessionCheckpoint&)> on_commit_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_delete_ ABSL_GUARDED_BY(mutex_);
};

// A memory store that outlives its engine, and fails when told to.
class TestStore : public Store {
 public:
  explicit TestStore(StoreControl* control) : control_(control) {}
  absl::StatusOr<uint64_t> Open() override { return control_->memory_.Open(); }
  absl::StatusOr<std::vector<SessionCheckpoint>> Load() override { return control_->memory_.Load(); }
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override;
  absl::Status Delete(uint64_t epoch, const std::string& session) override;
  StoreUsage GetUsage() const override { return {}; }

 private:
  StoreControl* const control_;
};

// Statistics of `values` under `config`.
LayerStatistics Observe(const ObserverConfig& config, const std::vector<float>& values,
                        const std::vector<uint64_t>& shape = {});

v1::ObserveRequest RegisterRequest(uint32_t first_handle, const std::vector<std::string>& names);
v1::ObserveRequest StatisticsRequest(uint64_t first, uint64_t last,
                                     const std::vector<std::pair<uint32_t, LayerStatistics>>& layers);
v1::ObserveRequest TensorRequest(uint64_t first, uint64_t last, uint32_t handle, const std::vector<float>& values,
                                 const std::vector<uint64_t>& shape);

// The next step of a layer with this state, whose observer depends on order.
Step MakeStep(const LayerStatistics& state, const std::vector<float>& values, const std::vector<uint64_t>& shape = {});
v1::ObserveRequest StepRequest(uint64_t first, uint64_t last, uint32_t handle, const Step& step,
                               bool reference_histogram);

// Seals and delivers what comes of it.
absl::Status Seal(Session* session);

// Everything that a session holds, as text, to compare. Without what opening a stream changes, and the memory that it
// takes.
std::string Describe(const Session& session);

// Layers of these names are observed so; "skipped" is not.
inline const ObserverConfig kHistogramConfig{};
inline const ObserverConfig kMinMaxConfig{.kind = ObserverKind::kMinMax};
inline const ObserverConfig kChannelsConfig{.channel_axis = 0};
inline const ObserverConfig kEmaConfig{.kind = ObserverKind::kEma};
inline const ObserverConfig kEmaChannelsConfig{.kind = ObserverKind::kEma, .channel_axis = 0};
// Grows up to twice its bins.
inline const ObserverConfig kReferenceConfig{.kind = ObserverKind::kReferenceHistogram,
                                             .reference = {ReferenceRule::kMxnet, 65, 129}};
inline const ObserverConfig kPassiveConfig{.kind = ObserverKind::kPassive};
// minmax*: kMinMaxConfig, channels*: kChannelsConfig, skipped*: none, ema.channels*: kEmaChannelsConfig, ema*:
// kEmaConfig, reference*: kReferenceConfig, passive*: kPassiveConfig, *: kHistogramConfig
SessionConfig TestConfig();

// A stream and its listener, with its layers registered.
struct TestStream {
  std::shared_ptr<TestListener> listener;
  std::unique_ptr<ObserveStream> stream;

  absl::Status Send(const v1::ObserveRequest& request) { return stream->Handle(request); }
};

// An engine that checkpoints on request only, over a store that outlives it.
class EngineFixture : public ::testing::Test {
 protected:
  EngineFixture();

  // Starts the engine, or starts it anew as if it had crashed. Streams must have been closed.
  void Start();
  std::shared_ptr<Session> CreateSession(const std::string& name = "s");
  // REQUIRES: the session exists. Registers "h", "minmax", "channels" and "skipped" as handles 0 to 3.
  TestStream Open(const std::string& worker = "w", const std::string& session = "s");

  StoreControl store_;
  EngineOptions options_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_ENGINE_FIXTURE_H_
