#include "tests/store/store_contract.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/store/checkpoints.h"

namespace calib::server::test {
namespace {

std::shared_ptr<const LayerStatistics> Counted(uint32_t key, uint64_t count) {
  LayerStatistics statistics(ObserverConfig{.mantissa_bits = 5});
  statistics.SetChannelCount(1).IgnoreError();
  ChannelStatistics& channel = statistics.mutable_channels()[0];
  channel.histogram->AddKey(key, count);
  const auto value = static_cast<float>(BinBegin(key, 5));
  channel.range = {
      .min = value, .max = value, .count = count, .nan = 3, .positive_infinity = 4, .negative_infinity = 5};
  return std::make_shared<const LayerStatistics>(std::move(statistics));
}

std::shared_ptr<const LayerStatistics> Empty() {
  return std::make_shared<const LayerStatistics>(ObserverConfig{.mantissa_bits = 5});
}

std::string DescribeAll(Store* store) {
  const absl::StatusOr<std::vector<SessionCheckpoint>> sessions = store->Load();
  EXPECT_TRUE(sessions.ok()) << sessions.status();
  return sessions.ok() ? Describe(*sessions) : "";
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
  SessionCheckpoint b = PlainCheckpoint("b");
  b.session.sealed = true;
  b.session.toggles = {{"x*", false}, {"*", true}};
  b.session.values_ignored = 77;
  b.workers = {{.id = "w1", .display_name = "host \xc3\xa9", .ordinal = 0, .incarnation = 2, .applied = 9},
               {.id = "a0", .ordinal = 1, .incarnation = 1, .applied = 0, .lost = 5}};
  b.layers = {{"layer.\xe5\xb1\xa4", Counted(0x3f80 >> 2, 5), {0, 1}}, {"empty", Empty(), {1}}};
  const SessionCheckpoint a = PlainCheckpoint("a");
  {
    const auto store = place_->NewStore();
    const uint64_t epoch = store->Open().value();
    ASSERT_TRUE(store->Commit(epoch, {b}).ok());
    ASSERT_TRUE(store->Commit(epoch, {a}).ok());
  }
  const auto store = place_->NewStore();
  ASSERT_TRUE(store->Open().ok());
  EXPECT_EQ(DescribeAll(store.get()), Describe({a, b}));
  const std::vector<SessionCheckpoint> sessions = store->Load().value();
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_EQ(sessions[1].session.config, b.session.config);
}

TEST_P(StoreContract, KeepsEveryFieldOfEveryObserver) {
  Rng rng(51);
  std::map<std::string, SessionCheckpoint> all;
  uint64_t epoch = 0;
  for (int round = 0; round < 6; ++round) {
    const auto store = place_->NewStore();
    const uint64_t last = epoch;
    epoch = store->Open().value();
    EXPECT_GT(epoch, last);
    const std::vector<SessionCheckpoint> loaded = store->Load().value();
    ASSERT_EQ(loaded.size(), all.size());
    for (const SessionCheckpoint& session : loaded) {
      const SessionCheckpoint& expected = all.at(session.session.name);
      ASSERT_EQ(Describe(session), Describe(expected));
      ASSERT_EQ(session.session.config, expected.session.config);
    }
    for (int commit = 0; commit < 5; ++commit) {
      std::vector<SessionCheckpoint> changes;
      for (const char* const name : {"a", "a.b", "b"}) {
        if (rng() % 3 == 0) continue;
        const auto found = all.find(name);
        if (found != all.end()) {
          changes.push_back(RandomChange(rng, &found->second));
        } else {
          changes.push_back(all.emplace(name, RandomCheckpoint(rng, name)).first->second);
        }
      }
      ASSERT_TRUE(store->Commit(epoch, changes).ok());
      if (rng() % 4 == 0 && !all.empty()) {
        ASSERT_TRUE(store->Delete(epoch, all.begin()->first).ok());
        all.erase(all.begin());
      }
    }
  }
}

TEST_P(StoreContract, LaterCommitsReplaceWhatTheyName) {
  const auto store = place_->NewStore();
  const uint64_t epoch = store->Open().value();
  SessionCheckpoint first = PlainCheckpoint("s");
  first.workers = {{.id = "a", .ordinal = 0, .incarnation = 1, .applied = 1},
                   {.id = "b", .ordinal = 1, .incarnation = 1, .applied = 1}};
  first.layers = {{"x", Counted(100, 1), {0}}, {"y", Counted(200, 2), {0}}};
  ASSERT_TRUE(store->Commit(epoch, {first}).ok());
  SessionCheckpoint second = PlainCheckpoint("s");
  second.session.updates_applied = 2;
  second.workers = {{.id = "b", .ordinal = 1, .incarnation = 1, .applied = 2}};
  second.layers = {{"y", Counted(300, 3), {0, 1}}, {"z", Counted(400, 4), {1}}};
  ASSERT_TRUE(store->Commit(epoch, {second}).ok());

  SessionCheckpoint all = second;
  all.workers = {first.workers[0], second.workers[0]};
  all.layers = {first.layers[0], second.layers[0], second.layers[1]};
  EXPECT_EQ(DescribeAll(store.get()), Describe(all));
}

TEST_P(StoreContract, DeleteRemovesOneSession) {
  const auto store = place_->NewStore();
  const uint64_t epoch = store->Open().value();
  SessionCheckpoint gone = PlainCheckpoint("a");
  gone.workers = {{.id = "w", .incarnation = 1, .applied = 1}};
  gone.layers = {{"x", Counted(1, 1), {0}}};
  const SessionCheckpoint kept = PlainCheckpoint("a.b");
  ASSERT_TRUE(store->Commit(epoch, {gone}).ok());
  ASSERT_TRUE(store->Commit(epoch, {kept}).ok());
  EXPECT_TRUE(store->Delete(epoch, "a").ok());
  EXPECT_TRUE(store->Delete(epoch, "a").ok());
  EXPECT_EQ(DescribeAll(store.get()), Describe(kept));
  // Made anew, it has nothing of its namesake.
  ASSERT_TRUE(store->Commit(epoch, {PlainCheckpoint("a")}).ok());
  EXPECT_EQ(DescribeAll(store.get()), Describe({PlainCheckpoint("a"), kept}));
}

TEST_P(StoreContract, OneServerAtATimeCommits) {
  auto store = place_->NewStore();
  const uint64_t old_epoch = store->Open().value();
  ASSERT_TRUE(store->Commit(old_epoch, {PlainCheckpoint("kept")}).ok());
  for (const uint64_t other : {old_epoch - 1, old_epoch + 1}) {
    EXPECT_EQ(store->Commit(other, {PlainCheckpoint("late")}).code(), absl::StatusCode::kAborted);
    EXPECT_EQ(store->Delete(other, "kept").code(), absl::StatusCode::kAborted);
  }
  const auto next = place_->NewStore();
  absl::StatusOr<uint64_t> epoch = next->Open();
  if (!place_->takes_over()) {
    EXPECT_EQ(epoch.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(store->Commit(old_epoch, {PlainCheckpoint("kept")}).ok());
    store.reset();
    epoch = next->Open();
  }
  ASSERT_TRUE(epoch.ok()) << epoch.status();
  EXPECT_GT(*epoch, old_epoch);
  if (store != nullptr) {
    EXPECT_EQ(store->Commit(old_epoch, {PlainCheckpoint("late")}).code(), absl::StatusCode::kAborted);
    EXPECT_EQ(store->Delete(old_epoch, "kept").code(), absl::StatusCode::kAborted);
  }
  EXPECT_EQ(DescribeAll(next.get()), Describe(PlainCheckpoint("kept")));
  EXPECT_TRUE(next->Commit(*epoch, {PlainCheckpoint("kept")}).ok());
}

}  // namespace calib::server::test
