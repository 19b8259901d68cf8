#include "tests/engine/engine_fixture.h"

#include <chrono>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"

namespace calib::server::test {

void Event::Set() {
  MutexLock lock(&mutex_);
  set_ = true;
  changed_.SignalAll();
}

bool Event::Wait() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  MutexLock lock(&mutex_);
  while (!set_) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return set_;
  }
  return true;
}

void TestListener::OnDurable() {
  std::function<void()> callback;
  {
    MutexLock lock(&mutex_);
    ++durable_calls_;
    callback = on_durable_;
  }
  if (callback) callback();
}

void TestListener::OnEnd(const absl::Status& status) {
  MutexLock lock(&mutex_);
  end_status_ = status;
}

void TestListener::OnStep(std::shared_ptr<const v1::ObserveResponse> message) {
  std::function<void()> callback;
  {
    MutexLock lock(&mutex_);
    steps_.push_back(std::move(message));
    callback = on_step_;
  }
  if (callback) callback();
}

std::vector<std::shared_ptr<const v1::ObserveResponse>> TestListener::TakeSteps() {
  MutexLock lock(&mutex_);
  return std::exchange(steps_, {});
}

void TestListener::OnDrain() {
  MutexLock lock(&mutex_);
  ++drain_calls_;
}

int TestListener::durable_calls() const {
  MutexLock lock(&mutex_);
  return durable_calls_;
}

absl::Status TestListener::end_status() const {
  MutexLock lock(&mutex_);
  return end_status_;
}

int TestListener::drain_calls() const {
  MutexLock lock(&mutex_);
  return drain_calls_;
}

void TestListener::SetOnDurable(std::function<void()> callback) {
  MutexLock lock(&mutex_);
  on_durable_ = std::move(callback);
}

void TestListener::SetOnStep(std::function<void()> callback) {
  MutexLock lock(&mutex_);
  on_step_ = std::move(callback);
}

void StoreControl::FailCommits(absl::Status status) {
  MutexLock lock(&mutex_);
  commit_status_ = std::move(status);
}

void StoreControl::FailDeletes(absl::Status status) {
  MutexLock lock(&mutex_);
  delete_status_ = std::move(status);
}

void StoreControl::SetOnCommit(std::function<void(const SessionCheckpoint&)> callback) {
  MutexLock lock(&mutex_);
  on_commit_ = std::move(callback);
}

void StoreControl::SetOnDelete(std::function<void()> callback) {
  MutexLock lock(&mutex_);
  on_delete_ = std::move(callback);
}

absl::Status TestStore::Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) {
  std::function<void(const SessionCheckpoint&)> callback;
  absl::Status status;
  {
    MutexLock lock(&control_->mutex_);
    callback = control_->on_commit_;
    status = control_->commit_status_;
  }
  for (const SessionCheckpoint& checkpoint : checkpoints) {
    if (callback) callback(checkpoint);
  }
  if (!status.ok()) return status;
  return control_->memory_.Commit(epoch, std::move(checkpoints));
}

absl::Status TestStore::Delete(uint64_t epoch, const std::string& session) {
  std::function<void()> callback;
  absl::Status status;
  {
    MutexLock lock(&control_->mutex_);
    callback = control_->on_delete_;
    status = control_->delete_status_;
  }
  if (callback) callback();
  if (!status.ok()) return status;
  return control_->memory_.Delete(epoch, session);
}

LayerStatistics Observe(const ObserverConfig& config, const std::vector<float>& values,
                        const std::vector<uint64_t>& shape) {
  thread_local TensorObserver observer;
  const std::vector<uint64_t> whole = shape.empty() ? std::vector<uint64_t>{values.size()} : shape;
  LayerStatistics statistics(config);
  const absl::Status status = observer.Observe(
      {.type = DataType::kFloat32,
       .shape = whole,
       .data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float))},
      &statistics);
  EXPECT_TRUE(status.ok()) << status;
  return statistics;
}

v1::ObserveRequest RegisterRequest(uint32_t first_handle, const std::vector<std::string>& names) {
  v1::ObserveRequest request;
  request.mutable_register_layers()->set_first_handle(first_handle);
  for (const std::string& name : names) request.mutable_register_layers()->add_name(name);
  return request;
}

v1::ObserveRequest StatisticsRequest(uint64_t first, uint64_t last,
                                     const std::vector<std::pair<uint32_t, LayerStatistics>>& layers) {
  v1::ObserveRequest request;
  request.mutable_update()->set_first(first);
  request.mutable_update()->set_last(last);
  v1::StatisticsBatch* const batch = request.mutable_update()->mutable_statistics();
  StatisticsWriter writer;
  for (const auto& [handle, statistics] : layers) writer.Add(handle, statistics, batch);
  return request;
}

v1::ObserveRequest TensorRequest(uint64_t first, uint64_t last, uint32_t handle, const std::vector<float>& values,
                                 const std::vector<uint64_t>& shape) {
  v1::ObserveRequest request;
  request.mutable_update()->set_first(first);
  request.mutable_update()->set_last(last);
  v1::TensorChunk* const chunk = request.mutable_update()->mutable_tensor();
  chunk->set_layer(handle);
  chunk->set_data_type(v1::DATA_TYPE_FLOAT32);
  for (const uint64_t extent : shape) chunk->add_shape(extent);
  chunk->set_data(values.data(), values.size() * sizeof(float));
  return request;
}

Step MakeStep(const LayerStatistics& state, const std::vector<float>& values, const std::vector<uint64_t>& shape) {
  ObserverConfig ranges_alone = state.config();
  ranges_alone.kind = ObserverKind::kMinMax;
  const LayerStatistics ranges = Observe(ranges_alone, values, shape);
  Step step;
  for (const ChannelStatistics& channel : ranges.channels()) step.ranges.push_back(channel.range);
  if (state.config().kind != ObserverKind::kReferenceHistogram) return step;
  const absl::StatusOr<ReferenceGrid> grid = state.NextGrid(step.ranges.at(0));
  EXPECT_TRUE(grid.ok()) << grid.status();
  step.grid = grid.value_or(ReferenceGrid());
  TensorView view;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  const absl::Status counted = CountOnGrid(state.config().reference.rule, step.grid, view, &step.counts);
  EXPECT_TRUE(counted.ok()) << counted;
  return step;
}

v1::ObserveRequest StepRequest(uint64_t first, uint64_t last, uint32_t handle, const Step& step,
                               bool reference_histogram) {
  v1::ObserveRequest request;
  request.mutable_update()->set_first(first);
  request.mutable_update()->set_last(last);
  StatisticsWriter().AddStep(handle, step, reference_histogram, request.mutable_update()->mutable_statistics());
  return request;
}

absl::Status Seal(Session* session) {
  Notices notices;
  const absl::Status status = session->Seal(&notices);
  notices.Deliver();
  return status;
}

std::string Describe(const Session& session) {
  const Session::Summary summary = session.GetSummary();
  std::string text = absl::StrCat("session ", summary.record.name, " sealed ", summary.record.sealed, " updates ",
                                  summary.record.updates_applied, " values ", summary.values, " ignored ",
                                  summary.record.values_ignored, "\n");
  for (const Session::WorkerSummary& worker : session.GetWorkers()) {
    absl::StrAppend(&text, "worker ", worker.record.id, " applied ", worker.record.applied, " durable ", worker.durable,
                    "\n");
  }
  for (const std::string& name : session.ListLayers("*", "", std::numeric_limits<size_t>::max())) {
    const absl::StatusOr<Session::LayerSnapshot> layer = session.GetLayer(name);
    if (!layer.ok()) continue;
    v1::StatisticsBatch batch;
    StatisticsWriter().Add(0, layer->statistics, &batch);
    absl::StrAppend(&text, "layer ", name, " enabled ", layer->enabled, " workers ", layer->workers, " ",
                    batch.ShortDebugString(), "\n");
    for (const ChannelStatistics& channel : layer->statistics.channels()) {
      if (!channel.passive.has_value()) continue;
      absl::StrAppend(&text, "scale ", channel.passive->scale, " zero point ", channel.passive->zero_point, "\n");
    }
  }
  return text;
}

SessionConfig TestConfig() {
  return {.rules = ObserverRules({{"minmax*", kMinMaxConfig, {}},
                                  {"channels*", kChannelsConfig, {}},
                                  {"skipped*", std::nullopt, {}},
                                  {"ema.channels*", kEmaChannelsConfig, {}},
                                  {"ema*", kEmaConfig, {}},
                                  {"reference*", kReferenceConfig, {}},
                                  {"passive*", kPassiveConfig, {}},
                                  {"*", kHistogramConfig, {}}})};
}

EngineFixture::EngineFixture() {
  options_.checkpoint_interval = absl::InfiniteDuration();
  options_.checkpoint_bytes = std::numeric_limits<uint64_t>::max();
}

void EngineFixture::Start() {
  engine_.reset();
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(options_, std::make_unique<TestStore>(&store_));
  ASSERT_TRUE(engine.ok()) << engine.status();
  engine_ = *std::move(engine);
}

std::shared_ptr<Session> EngineFixture::CreateSession(const std::string& name) {
  const absl::StatusOr<Engine::CreateResult> result = engine_->CreateSession(name, TestConfig());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->session : nullptr;
}

TestStream EngineFixture::Open(const std::string& worker, const std::string& session) {
  TestStream opened{.listener = std::make_shared<TestListener>()};
  v1::Open open;
  open.set_session(session);
  open.set_worker_id(worker);
  absl::StatusOr<std::unique_ptr<ObserveStream>> stream = ObserveStream::Open(engine_.get(), open, opened.listener);
  EXPECT_TRUE(stream.ok()) << stream.status();
  if (!stream.ok()) return opened;
  opened.stream = *std::move(stream);
  const absl::Status status = opened.Send(RegisterRequest(0, {"h", "minmax", "channels", "skipped"}));
  EXPECT_TRUE(status.ok()) << status;
  return opened;
}

}  // namespace calib::server::test
