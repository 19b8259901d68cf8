#include "tests/store/store_contract.h"

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace calib::server::test {
namespace {

std::shared_ptr<const LayerStatistics> Counted(uint32_t key, uint64_t count) {
  LayerStatistics statistics{ObserverConfig{}};
  statistics.SetChannelCount(1).IgnoreError();
  ChannelStatistics& channel = statistics.mutable_channels()[0];
  channel.histogram->AddKey(key, count);
  channel.range = {.min = 1, .max = 2, .count = count, .nan = 3, .positive_infinity = 4, .negative_infinity = 5};
  return std::make_shared<const LayerStatistics>(std::move(statistics));
}

std::shared_ptr<const LayerStatistics> MinMaxOfChannels(size_t channels) {
  LayerStatistics statistics({.kind = ObserverKind::kMinMax, .channel_axis = -1});
  statistics.SetChannelCount(channels).IgnoreError();
  statistics.mutable_channels()[0].range = {.min = -3, .max = 7, .count = ~uint64_t{0}};
  return std::make_shared<const LayerStatistics>(std::move(statistics));
}

SessionCheckpoint Checkpoint(const std::string& name) {
  SessionCheckpoint checkpoint;
  checkpoint.session = {
      .name = name,
      .config = {.rules = ObserverRules({{"skip*", std::nullopt, {}}, {"*", ObserverConfig{.mantissa_bits = 5}, {}}}),
                 .mantissa_bits = 5},
      .create_time = absl::FromUnixSeconds(1700000000),
      .updates_applied = 1};
  return checkpoint;
}

// As text, to compare; workers and layers in any order.
std::string Describe(const SessionCheckpoint& checkpoint) {
  const SessionRecord& session = checkpoint.session;
  std::string text =
      absl::StrCat(session.name, " bits ", session.config.mantissa_bits, " rules ", session.config.rules.rules().size(),
                   " at ", absl::FormatTime(session.create_time), " sealed ", session.sealed, " updates ",
                   session.updates_applied, " ignored ", session.values_ignored, "\n");
  for (const auto& toggle : session.toggles) absl::StrAppend(&text, "toggle ", toggle.pattern, toggle.enabled, "\n");
  std::map<std::string, std::string> lines;
  for (const WorkerRecord& worker : checkpoint.workers) {
    lines["worker " + worker.id] =
        absl::StrCat(worker.display_name, " ", worker.ordinal, " ", worker.incarnation, " ", worker.applied);
  }
  for (const LayerRecord& layer : checkpoint.layers) {
    std::string& line = lines["layer " + layer.name];
    for (const uint32_t worker : layer.workers) absl::StrAppend(&line, worker, " ");
    absl::StrAppend(&line, "kind ", static_cast<int>(layer.statistics->config().kind), " axis ",
                    layer.statistics->config().channel_axis.value_or(99));
    for (const ChannelStatistics& channel : layer.statistics->channels()) {
      const Range& range = channel.range;
      absl::StrAppend(&line, " [", range.min, " ", range.max, " ", range.count, " ", range.nan, " ",
                      range.positive_infinity, " ", range.negative_infinity);
      if (channel.histogram.has_value()) {
        for (uint32_t key = 0; key < 65536; ++key) {
          if (const uint64_t count = channel.histogram->count(key); count > 0)
            absl::StrAppend(&line, " ", key, ":", count);
        }
      }
      absl::StrAppend(&line, "]");
    }
  }
  for (const auto& [key, value] : lines) absl::StrAppend(&text, key, " ", value, "\n");
  return text;
}

std::vector<std::string> DescribeAll(Store* store) {
  const absl::StatusOr<std::vector<SessionCheckpoint>> sessions = store->Load();
  EXPECT_TRUE(sessions.ok()) << sessions.status();
  std::vector<std::string> described;
  for (const SessionCheckpoint& session : *sessions) described.push_back(Describe(session));
  return described;
}

}  // namespace

TEST_P(StoreContract, EpochsRise) {
  uint64_t last = 0;
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<uint64_t> epoch = place_->NewStore()->Open();
    ASSERT_TRUE(epoch.ok()) << epoch.status();
    EXPECT_GT(*epoch, last);
    last = *epoch;
  }
}

TEST_P(StoreContract, StartsEmpty) {
  const auto store = place_->NewStore();
  ASSERT_TRUE(store->Open().ok());
  EXPECT_EQ(store->Load()->size(), 0u);
}

TEST_P(StoreContract, LoadsWhatWasCommittedInNameOrder) {
  SessionCheckpoint b = Checkpoint("b");
  b.session.sealed = true;
  b.session.toggles = {{"x*", false}, {"*", true}};
  b.session.values_ignored = 77;
  b.workers = {{.id = "w1", .display_name = "host \xc3\xa9", .ordinal = 0, .incarnation = 2, .applied = 9},
               {.id = "a0", .ordinal = 1, .incarnation = 1, .applied = 0}};
  b.layers = {{"layer.\xe5\xb1\xa4", Counted(0x3f80, 5), {0, 1}}, {"channels", MinMaxOfChannels(3), {1}}};
  const SessionCheckpoint a = Checkpoint("a");
  {
    const auto store = place_->NewStore();
    const uint64_t epoch = store->Open().value();
    ASSERT_TRUE(store->Commit(epoch, {b}).ok());
    ASSERT_TRUE(store->Commit(epoch, {a}).ok());
  }
  const auto store = place_->NewStore();
  ASSERT_TRUE(store->Open().ok());
  const std::vector<std::string> loaded = DescribeAll(store.get());
  ASSERT_EQ(loaded.size(), 2u);
  EXPECT_EQ(loaded[0], Describe(a));
  EXPECT_EQ(loaded[1], Describe(b));
  const std::vector<SessionCheckpoint> sessions = store->Load().value();
  EXPECT_EQ(sessions[1].session.config, b.session.config);
}

TEST_P(StoreContract, LaterCommitsReplaceWhatTheyName) {
  const auto store = place_->NewStore();
  const uint64_t epoch = store->Open().value();
  SessionCheckpoint first = Checkpoint("s");
  first.workers = {{.id = "a", .ordinal = 0, .incarnation = 1, .applied = 1},
                   {.id = "b", .ordinal = 1, .incarnation = 1, .applied = 1}};
  first.layers = {{"x", Counted(100, 1), {0}}, {"y", Counted(200, 2), {0}}};
  ASSERT_TRUE(store->Commit(epoch, {first}).ok());
  SessionCheckpoint second = Checkpoint("s");
  second.session.updates_applied = 2;
  second.workers = {{.id = "b", .ordinal = 1, .incarnation = 1, .applied = 2}};
  second.layers = {{"y", Counted(300, 3), {0, 1}}, {"z", Counted(400, 4), {1}}};
  ASSERT_TRUE(store->Commit(epoch, {second}).ok());

  SessionCheckpoint all = second;
  all.workers = {first.workers[0], second.workers[0]};
  all.layers = {first.layers[0], second.layers[0], second.layers[1]};
  EXPECT_EQ(DescribeAll(store.get()), std::vector<std::string>{Describe(all)});
}

TEST_P(StoreContract, DeleteRemovesOneSession) {
  const auto store = place_->NewStore();
  const uint64_t epoch = store->Open().value();
  SessionCheckpoint gone = Checkpoint("a");
  gone.workers = {{.id = "w", .incarnation = 1, .applied = 1}};
  gone.layers = {{"x", Counted(1, 1), {0}}};
  const SessionCheckpoint kept = Checkpoint("a.b");
  ASSERT_TRUE(store->Commit(epoch, {gone}).ok());
  ASSERT_TRUE(store->Commit(epoch, {kept}).ok());
  EXPECT_TRUE(store->Delete(epoch, "a").ok());
  EXPECT_TRUE(store->Delete(epoch, "a").ok());
  EXPECT_EQ(DescribeAll(store.get()), std::vector<std::string>{Describe(kept)});
  // Made anew, it has nothing of its namesake.
  ASSERT_TRUE(store->Commit(epoch, {Checkpoint("a")}).ok());
  EXPECT_EQ(DescribeAll(store.get()), (std::vector<std::string>{Describe(Checkpoint("a")), Describe(kept)}));
}

TEST_P(StoreContract, OlderEpochsAreFenced) {
  const auto store = place_->NewStore();
  const uint64_t old_epoch = store->Open().value();
  ASSERT_TRUE(store->Commit(old_epoch, {Checkpoint("kept")}).ok());
  const auto next = place_->NewStore();
  const uint64_t epoch = next->Open().value();
  EXPECT_EQ(store->Commit(old_epoch, {Checkpoint("late")}).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(store->Delete(old_epoch, "kept").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(DescribeAll(next.get()), std::vector<std::string>{Describe(Checkpoint("kept"))});
  EXPECT_TRUE(next->Commit(epoch, {Checkpoint("kept")}).ok());
}

}  // namespace calib::server::test
