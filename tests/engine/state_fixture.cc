#include "tests/engine/state_fixture.h"

#include <gmock/gmock.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/state_export.h"
#include "server/engine/state_import.h"

namespace calib::server::test {

std::shared_ptr<Session> StateFixture::CreateSessionOf(const std::string& name, const SessionConfig& config) {
  const absl::StatusOr<Engine::CreateResult> result = engine_->CreateSession(name, config);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->session : nullptr;
}

void StateFixture::Feed(const std::string& session, const std::string& layer, const std::vector<float>& values) {
  TestStream stream = Open(absl::StrCat("feeder-", next_worker_++), session);
  absl::Status status = stream.Send(RegisterRequest(4, {layer}));
  EXPECT_TRUE(status.ok()) << status;
  status = stream.Send(TensorRequest(1, 1, 4, values, {values.size()}));
  EXPECT_TRUE(status.ok()) << status;
}

std::string StateFixture::Export(const std::string& session) {
  absl::StatusOr<std::unique_ptr<StateExport>> state = StateExport::Begin(engine_.get(), session);
  EXPECT_TRUE(state.ok()) << state.status();
  std::string file;
  absl::StatusOr<bool> more = true;
  while (more.ok() && *more) more = (*state)->Next(&file);
  EXPECT_TRUE(more.ok()) << more.status();
  return file;
}

absl::StatusOr<StateMerge> StateFixture::Import(const std::string& session, const std::string& file,
                                                bool skip_unmergeable) {
  StateImport import(engine_.get());
  if (absl::Status status = import.Add(file); !status.ok()) return status;
  return import.Merge(engine_->FindSession(session).value().get(), skip_unmergeable);
}

void StateFixture::ExpectRefused(const std::string& session, const std::string& file, v1::ErrorReason reason,
                                 const std::string& named) {
  const Session& target = **engine_->FindSession(session);
  const std::string before = Describe(target);
  const uint64_t version = target.GetSummary().version;
  const int64_t state_bytes = engine_->counters().state_bytes;
  const absl::Status status = Import(session, file).status();
  EXPECT_EQ(ReasonName(GetReason(status)), ReasonName(reason)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(named));
  EXPECT_EQ(Describe(target), before);
  EXPECT_EQ(target.GetSummary().version, version);
  EXPECT_EQ(engine_->counters().state_bytes, state_bytes);
}

LayerStatistics StateFixture::StatisticsOf(const std::string& session, const std::string& layer) {
  const absl::StatusOr<Session::LayerSnapshot> snapshot = engine_->FindSession(session).value()->GetLayer(layer);
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return snapshot.ok() ? snapshot->statistics : LayerStatistics({});
}

std::vector<std::pair<std::string, LayerStatistics>> StateFixture::LayersOf(const std::string& session) {
  const std::shared_ptr<Session> found = *engine_->FindSession(session);
  std::vector<std::pair<std::string, LayerStatistics>> layers;
  for (const std::string& name : found->ListLayers("*", "", std::numeric_limits<size_t>::max())) {
    layers.emplace_back(name, StatisticsOf(session, name));
  }
  return layers;
}

}  // namespace calib::server::test
