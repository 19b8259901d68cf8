// State files out of sessions and into others.

#include <gmock/gmock.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/state_export.h"
#include "server/engine/state_import.h"
#include "tests/engine/state_fixture.h"

namespace calib::server::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StateTest : public StateFixture {};

TEST_F(StateTest, TwoHalvesMergedAreTheWhole) {
  for (const char* name : {"a", "b", "both", "merged"}) CreateSession(name);
  const std::vector<float> first = {1, -2, 3.5f, 1e-20f}, second = {-100, 0.25f, 7};
  for (const char* layer : {"h.0", "minmax.0"}) {
    Feed("a", layer, first);
    Feed("b", layer, second);
    Feed("both", layer, first);
    Feed("both", layer, second);
  }
  Feed("b", "h.only.b", second);
  Feed("both", "h.only.b", second);
  for (const char* session : {"a", "b"}) {
    const absl::StatusOr<StateMerge> merge = Import("merged", Export(session));
    ASSERT_TRUE(merge.ok()) << merge.status();
    EXPECT_FALSE(merge->already_merged);
    EXPECT_EQ(merge->layers, session[0] == 'a' ? 2u : 3u);
    EXPECT_EQ(merge->values, session[0] == 'a' ? 8u : 9u);
  }
  EXPECT_EQ(LayersOf("merged"), LayersOf("both"));
  const std::shared_ptr<Session> merged = *engine_->FindSession("merged");
  EXPECT_EQ(merged->GetSummary().values, 17u);
  EXPECT_EQ(merged->GetSummary().record.updates_applied, 2u);
  EXPECT_EQ(merged->GetLayer("h.0")->workers, 2u);
  EXPECT_EQ(merged->GetLayer("h.only.b")->workers, 1u);
  const std::vector<Session::WorkerSummary> workers = merged->GetWorkers();
  ASSERT_EQ(workers.size(), 2u);
  for (const Session::WorkerSummary& worker : workers) {
    EXPECT_THAT(worker.record.id, ::testing::StartsWith("import-"));
    EXPECT_EQ(worker.record.applied, 1u);
  }
}

TEST_F(StateTest, EqualStatesGiveEqualFiles) {
  CreateSession("a");
  Feed("a", "h.0", {1, 2});
  const std::string file = Export("a");
  EXPECT_EQ(Export("a"), file);
  Open("late", "a");
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(Export("a"), file);
  Start();
  EXPECT_EQ(Export("a"), file);
}

TEST_F(StateTest, AnExportIsACutWhileUpdatesCome) {
  CreateSession("a");
  constexpr int kWorkers = 3;
  std::atomic<int> running{kWorkers};
  std::vector<std::thread> threads;
  // Each update adds the same values to two layers: a cut has them in both or in none.
  for (int w = 0; w < kWorkers; ++w) {
    threads.emplace_back([&, w] {
      const std::vector<float> values = {static_cast<float>(w + 1), -1.5f};
      TestStream stream = Open(absl::StrCat("w", w), "a");
      for (uint64_t unit = 1; unit <= 400; ++unit) {
        const absl::Status status = stream.Send(StatisticsRequest(
            unit, unit, {{0, Observe(kHistogramConfig, values)}, {1, Observe(kMinMaxConfig, values)}}));
        EXPECT_TRUE(status.ok()) << status;
      }
      --running;
    });
  }
  threads.emplace_back([&] {
    while (running > 0) EXPECT_TRUE(engine_->Checkpoint().ok());
  });
  uint64_t last = 0, files = 0;
  while (running > 0 || files == 0) {
    // The cut is made here, and read while updates and checkpoints go on.
    std::map<std::string, uint64_t> counts;
    v1::StateHeader header;
    StateFileReader reader({.on_header =
                                [&](const v1::StateHeader& found, const SessionConfig&) {
                                  header = found;
                                  return absl::OkStatus();
                                },
                            .on_layer =
                                [&](const std::string& name, const LayerStatistics& statistics) {
                                  counts[name] = statistics.channels().at(0).range.count;
                                  return absl::OkStatus();
                                }});
    ASSERT_TRUE(reader.Add(Export("a")).ok());
    ASSERT_TRUE(reader.Finish().ok());
    EXPECT_EQ(counts["h"], counts["minmax"]);
    EXPECT_EQ(counts["h"], 2 * header.updates());
    EXPECT_GE(header.updates(), last);
    last = header.updates();
    ++files;
  }
  for (std::thread& thread : threads) thread.join();
  CreateSession("copy");
  ASSERT_TRUE(Import("copy", Export("a")).ok());
  EXPECT_EQ(LayersOf("copy"), LayersOf("a"));
  EXPECT_EQ(StatisticsOf("copy", "h").channels().at(0).range.count, 2u * 400 * kWorkers);
}

TEST_F(StateTest, AFileCountsOnceAlsoAfterARestartAndASeal) {
  CreateSession("a");
  CreateSession("c");
  Feed("a", "h.0", {1, 2});
  const std::string file = Export("a");
  ASSERT_TRUE(Import("c", file).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  const auto layers = LayersOf("c");
  const std::string before = Describe(**engine_->FindSession("c"));
  for (int i = 0; i < 3; ++i) {
    if (i == 1) Start();
    if (i == 2) {
      ASSERT_TRUE(Seal(engine_->FindSession("c")->get()).ok());
    }
    const absl::StatusOr<StateMerge> again = Import("c", file);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(again->already_merged);
    EXPECT_EQ(again->layers, 0u);
    EXPECT_EQ(LayersOf("c"), layers);
    if (i < 2) {
      EXPECT_EQ(Describe(**engine_->FindSession("c")), before);
    }
  }
  EXPECT_EQ(engine_->FindSession("c").value()->GetSummary().record.imports.size(), 1u);
}

TEST_F(StateTest, SessionsCountOnceWhateverTheirWay) {
  for (const char* name : {"a", "b", "c", "d"}) {
    CreateSession(name);
    Feed(name, "h.0", {1, 2});
  }
  const auto uid = [&](const char* name) { return engine_->FindSession(name).value()->GetSummary().record.uid; };
  ASSERT_TRUE(Import("b", Export("a")).ok());
  ASSERT_TRUE(Import("c", Export("b")).ok());
  ExpectRefused("c", Export("a"), v1::ERROR_REASON_STATE_OVERLAPS, uid("a"));  // by b
  ExpectRefused("a", Export("c"), v1::ERROR_REASON_STATE_OVERLAPS, uid("a"));  // back
  ExpectRefused("a", Export("a"), v1::ERROR_REASON_STATE_OVERLAPS, uid("a"));
  Feed("b", "h.0", {3});
  ExpectRefused("c", Export("b"), v1::ERROR_REASON_STATE_OVERLAPS, "");  // a newer file of b
  ASSERT_TRUE(Import("d", Export("a")).ok());
  ExpectRefused("c", Export("d"), v1::ERROR_REASON_STATE_OVERLAPS, uid("a"));
  // A session of the same name made anew is another.
  ASSERT_TRUE(engine_->DeleteSession("a").ok());
  CreateSession("a");
  Feed("a", "h.0", {9});
  EXPECT_TRUE(Import("c", Export("a")).ok());
  EXPECT_EQ(StatisticsOf("c", "h.0").channels().at(0).range.count, 7u);
}

TEST_F(StateTest, FinerHistogramsMergeIntoCoarserOnesExactly) {
  const auto config = [](int bits) {
    return SessionConfig{.rules = ObserverRules({{"*", ObserverConfig{.mantissa_bits = bits}, {}}}),
                         .mantissa_bits = bits};
  };
  CreateSessionOf("fine", config(7));
  CreateSessionOf("coarse", config(4));
  const std::vector<float> values = {1.0f, 1.01f, 1.3f, -7.77f, 1e-30f, 12345.678f};
  Feed("fine", "x", values);
  ASSERT_TRUE(Import("coarse", Export("fine")).ok());
  EXPECT_EQ(StatisticsOf("coarse", "x"), Observe(ObserverConfig{.mantissa_bits = 4}, values));
  CreateSessionOf("fine2", config(7));
  ExpectRefused("fine2", Export("coarse"), v1::ERROR_REASON_OBSERVER_MISMATCH, "\"x\"");
}

TEST_F(StateTest, StatesThatDependOnOrderAreTakenOverWhereThereIsNone) {
  CreateSession("a");
  for (const char* layer : {"ema.0", "reference.0"}) {
    Feed("a", layer, {1, 2, 3});
  }
  const QParams params{0.5f, 3};
  ASSERT_TRUE(engine_->FindSession("a").value()->SetQParams("passive.0", {&params, 1}).ok());
  const std::string file = Export("a");
  CreateSession("empty");
  ASSERT_TRUE(Import("empty", file).ok());
  EXPECT_EQ(LayersOf("empty"), LayersOf("a"));

  for (const char* layer : {"ema.0", "reference.0"}) {
    const std::string name = absl::StrCat("with.", layer);
    CreateSession(name);
    Feed(name, layer, {1, 2, 3});
    ExpectRefused(name, file, v1::ERROR_REASON_STATE_UNMERGEABLE, layer);
  }
  CreateSession("equal");
  ASSERT_TRUE(engine_->FindSession("equal").value()->SetQParams("passive.0", {&params, 1}).ok());
  EXPECT_TRUE(Import("equal", file).ok());
  CreateSession("other");
  const QParams others{0.25f, 3};
  ASSERT_TRUE(engine_->FindSession("other").value()->SetQParams("passive.0", {&others, 1}).ok());
  ExpectRefused("other", file, v1::ERROR_REASON_STATE_UNMERGEABLE, "passive.0");
  // What can't be merged is left out when that is asked for.
  const absl::StatusOr<StateMerge> merge = Import("other", file, /*skip_unmergeable=*/true);
  ASSERT_TRUE(merge.ok()) << merge.status();
  EXPECT_EQ(merge->layers, 2u);
  EXPECT_THAT(merge->left_out, ElementsAre("passive.0"));
  EXPECT_EQ(StatisticsOf("other", "passive.0").channels().at(0).passive, others);
}

TEST_F(StateTest, NothingIsMergedWhenOneLayerIsRefused) {
  CreateSession("a");
  Feed("a", "h.0", {1, 2});
  Feed("a", "zz", {1, 2});
  const std::string file = Export("a");
  const auto with_zz = [&](const std::string& name, std::optional<ObserverConfig> observer) {
    CreateSessionOf(name, {.rules = ObserverRules({{"zz", std::move(observer), {}}, {"*", kHistogramConfig, {}}})});
    Feed(name, "h.0", {5});
  };
  with_zz("skips", std::nullopt);
  ExpectRefused("skips", file, v1::ERROR_REASON_LAYER_SKIPPED, "\"zz\"");
  with_zz("kind", kMinMaxConfig);
  ExpectRefused("kind", file, v1::ERROR_REASON_OBSERVER_MISMATCH, "\"zz\"");
  with_zz("axis", kChannelsConfig);
  ExpectRefused("axis", file, v1::ERROR_REASON_OBSERVER_MISMATCH, "per channel along axis 0");
  with_zz("disabled", kHistogramConfig);
  ASSERT_TRUE(engine_->FindSession("disabled").value()->SetEnabled("zz", false).ok());
  ExpectRefused("disabled", file, v1::ERROR_REASON_STATE_UNMERGEABLE, "disabled");
  with_zz("sealed", kHistogramConfig);
  ASSERT_TRUE(Seal(engine_->FindSession("sealed")->get()).ok());
  ExpectRefused("sealed", file, v1::ERROR_REASON_SESSION_SEALED, "sealed");
  const absl::StatusOr<StateMerge> merge = Import("skips", file, /*skip_unmergeable=*/true);
  ASSERT_TRUE(merge.ok()) << merge.status();
  EXPECT_THAT(merge->left_out, ElementsAre("zz"));
  EXPECT_EQ(StatisticsOf("skips", "h.0"), Observe(kHistogramConfig, {1, 2, 5}));
}

TEST_F(StateTest, ChannelCountsMustBeEqual) {
  for (const char* name : {"a", "b"}) CreateSession(name);
  for (const auto& [name, channels] : {std::pair{"a", 2}, std::pair{"b", 3}}) {
    TestStream stream = Open("w", name);
    const std::vector<float> values(6, 1.0f);
    const auto rows = static_cast<uint64_t>(channels);
    ASSERT_TRUE(stream.Send(TensorRequest(1, 1, 2, values, {rows, 6 / rows})).ok());
  }
  ExpectRefused("a", Export("b"), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, "\"channels\"");
}

TEST_F(StateTest, CountsNeverWrap) {
  for (const char* name : {"a", "b"}) {
    CreateSession(name);
    LayerStatistics huge = Observe(kMinMaxConfig, {1});
    huge.mutable_channels()[0].range.count = ~uint64_t{0} - 1;
    TestStream stream = Open("w", name);
    ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{1, huge}})).ok());
  }
  ExpectRefused("a", Export("b"), v1::ERROR_REASON_COUNT_OVERFLOW, "\"minmax\"");
}

TEST_F(StateTest, AFileOfWhichNothingMergesLeavesNoTrace) {
  CreateSession("a");
  CreateSessionOf("skips", {.rules = ObserverRules({{"*", std::nullopt, {}}})});
  Feed("a", "h.0", {1, 2});
  const absl::StatusOr<StateMerge> merge = Import("skips", Export("a"), /*skip_unmergeable=*/true);
  ASSERT_TRUE(merge.ok()) << merge.status();
  EXPECT_EQ(merge->layers, 0u);
  EXPECT_THAT(merge->left_out, ElementsAre("h.0"));
  EXPECT_TRUE(engine_->FindSession("skips").value()->GetSummary().record.imports.empty());
}

TEST_F(StateTest, LimitsHoldAndPendingStatesCount) {
  CreateSession("a");
  Feed("a", "h.0", {1, 2});
  Feed("a", "h.1", {1, 2});
  const std::string file = Export("a");
  CreateSession("c");
  const int64_t before = engine_->counters().state_bytes;
  {
    StateImport import(engine_.get());
    ASSERT_TRUE(import.Add(absl::string_view(file).substr(0, file.size() - 5)).ok());
    EXPECT_GT(engine_->counters().state_bytes, before + 1000);
  }
  EXPECT_EQ(engine_->counters().state_bytes, before);  // abandoned
  ASSERT_TRUE(engine_->Checkpoint().ok());

  const auto refused_with = [&](const std::string& option, auto set) {
    const EngineOptions options = options_;
    set(&options_.limits);
    Start();
    ExpectRefused("c", file, v1::ERROR_REASON_LIMIT_EXCEEDED, option);
    options_ = options;
  };
  refused_with("--max-layers", [](Limits* limits) { limits->max_layers = 1; });
  refused_with("--max-workers", [](Limits* limits) { limits->max_workers = 0; });
  refused_with("--max-lineage", [](Limits* limits) { limits->max_lineage = 0; });
  refused_with("--max-channels", [](Limits* limits) { limits->max_channels = 0; });
  refused_with("--max-layer-name-bytes", [](Limits* limits) { limits->max_layer_name_bytes = 2; });
  refused_with("--max-state-bytes", [&](Limits* limits) { limits->max_state_bytes = static_cast<uint64_t>(before); });
  Start();
  EXPECT_TRUE(Import("c", file).ok());
}

TEST_F(StateTest, ExportsUnderWayAreBounded) {
  CreateSession("a");
  Feed("a", "h.0", {1, 2});
  ASSERT_TRUE(engine_->Checkpoint().ok());
  options_.limits.max_state_bytes = 1;
  Start();
  absl::StatusOr<std::unique_ptr<StateExport>> first = StateExport::Begin(engine_.get(), "a");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = StateExport::Begin(engine_.get(), "a").status();
  EXPECT_EQ(GetReason(second), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_THAT(std::string(second.message()), HasSubstr("--max-state-bytes"));
  first->reset();
  EXPECT_EQ(engine_->counters().export_bytes, 0);
  EXPECT_TRUE(StateExport::Begin(engine_.get(), "a").ok());
}

TEST_F(StateTest, DamagedFilesAndMissingSessions) {
  CreateSession("a");
  CreateSession("c");
  Feed("a", "h.0", {1, 2});
  std::string file = Export("a");
  ExpectRefused("c", file.substr(0, 100), v1::ERROR_REASON_STATE_FILE_INVALID, "byte 100: ");
  file[40] ^= 1;
  ExpectRefused("c", file, v1::ERROR_REASON_STATE_FILE_INVALID, "byte 12: ");
  EXPECT_EQ(GetReason(StateExport::Begin(engine_.get(), "nobody").status()), v1::ERROR_REASON_SESSION_NOT_FOUND);
}

TEST_F(StateTest, AnImportSurvivesARestart) {
  CreateSession("a");
  CreateSession("c");
  Feed("a", "h.0", {1, 2});
  const std::string file = Export("a");
  ASSERT_TRUE(Import("c", file).ok());
  const auto session = *engine_->FindSession("c");
  Event durable;
  engine_->WhenDurable(session, [&](const absl::StatusOr<uint64_t>& updates) {
    EXPECT_EQ(updates.value_or(0), 1u);
    durable.Set();
  });
  ASSERT_TRUE(durable.Wait());
  const std::string before = Describe(*session);
  Start();
  EXPECT_EQ(Describe(**engine_->FindSession("c")), before);
  Feed("c", "h.0", {7});  // goes on as before
  EXPECT_EQ(StatisticsOf("c", "h.0"), Observe(kHistogramConfig, {1, 2, 7}));
}

TEST_F(StateTest, WhatIsMissingInAFileIsMissingInTheSession) {
  CreateSession("a");
  v1::Open open;
  open.set_session("a");
  open.set_worker_id("w");
  open.set_durable(7);  // of which this store knows nothing
  auto stream = ObserveStream::Open(engine_.get(), open, std::make_shared<TestListener>()).value();
  ASSERT_TRUE(stream->Handle(RegisterRequest(0, {"h"})).ok());
  ASSERT_TRUE(stream->Handle(StatisticsRequest(1, 1, {{0, Observe(kHistogramConfig, {1, 2})}})).ok());
  stream.reset();
  const std::string file = Export("a");
  CreateSession("b");
  EXPECT_FALSE(engine_->FindSession("b").value()->IsIncomplete());
  ASSERT_TRUE(Import("b", file).ok());
  EXPECT_TRUE(engine_->FindSession("b").value()->IsIncomplete());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  Start();
  EXPECT_TRUE(engine_->FindSession("b").value()->IsIncomplete());
}

}  // namespace
}  // namespace calib::server::test
