#include "server/store/rocksdb_store.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"
#include "server/store/keys.h"
#include "server/store/record.pb.h"
#include "server/store/row.h"
#include "tests/store/checkpoints.h"
#include "tests/store/store_contract.h"
#include "tests/store/store_folder.h"

namespace calib::server::test {
namespace {

using ::testing::HasSubstr;

class FolderPlace : public StorePlace {
 public:
  std::unique_ptr<Store> NewStore() override { return StoreIn(folder_); }
  bool takes_over() const override { return false; }

 private:
  const StoreFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(RocksDb, StoreContract,
                         ::testing::Values(StoreKind{"rocksdb", [] { return std::make_unique<FolderPlace>(); }}),
                         [](const auto& info) { return info.param.name; });

class FixedClock : public Clock {
 public:
  absl::Time Now() const override { return now; }
  absl::Duration Elapsed() const override { return elapsed; }

  absl::Time now = absl::FromUnixMicros(1000);
  absl::Duration elapsed;
};

class RocksDbStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<Store> NewStore() { return NewRocksDbStore({.path = folder_.path(), .clock = &clock_}); }

  // A store with session "s", in which RocksDB then does `change`, behind the store's back. Returns what Load says.
  template <typename Change>
  std::string LoadAfter(Change change) {
    {
      const auto store = NewStore();
      const uint64_t epoch = store->Open().value();
      EXPECT_TRUE(store->Commit(epoch, {RandomCheckpoint(rng_, "s"), PlainCheckpoint("t")}).ok());
    }
    {
      rocksdb::DB* opened = nullptr;
      EXPECT_TRUE(rocksdb::DB::Open(rocksdb::Options(), folder_.path(), &opened).ok());
      const std::unique_ptr<rocksdb::DB> db(opened);
      change(db.get());
    }
    const auto store = NewStore();
    const absl::StatusOr<uint64_t> epoch = store->Open();
    if (!epoch.ok()) return epoch.status().ToString();
    const absl::Status status = store->Load().status();
    EXPECT_EQ(store->Commit(*epoch, {PlainCheckpoint("t")}).code(), status.code());  // refused too
    EXPECT_EQ(store->Delete(*epoch, "t").code(), status.code());
    return status.ToString();
  }

  FixedClock clock_;
  Rng rng_{81};
  const StoreFolder folder_;
};

TEST_F(RocksDbStoreTest, EpochsAreTimesAndRiseWithoutThem) {
  EXPECT_EQ(NewStore()->Open().value(), 1000u);
  EXPECT_EQ(NewStore()->Open().value(), 1001u);
  clock_.now = absl::FromUnixMicros(5000);
  const StoreFolder backup;
  backup.CopyFrom(folder_.path());
  EXPECT_EQ(NewStore()->Open().value(), 5000u);
  EXPECT_EQ(NewStore()->Open().value(), 5001u);
  clock_.now = absl::FromUnixMicros(7000);
  folder_.CopyFrom(backup.path());
  EXPECT_EQ(NewStore()->Open().value(), 7000u);
  clock_.now = absl::FromUnixMicros(-5);
  EXPECT_EQ(NewStore()->Open().value(), 7001u);
}

TEST_F(RocksDbStoreTest, RowsThatTheDatabaseLostOrKeptAreNamed) {
  const std::string worker = EncodeKey({.kind = RowKind::kWorker, .session = "s", .ordinal = 0});
  const std::string layer = EncodeKey({.kind = RowKind::kLayer, .session = "s", .layer = "1.a"});
  const auto put = [](rocksdb::DB* db, const std::string& key, const std::string& value) {
    EXPECT_TRUE(db->Put(rocksdb::WriteOptions(), key, value).ok());
  };
  const auto remove = [](rocksdb::DB* db, const RowKey& key) {
    EXPECT_TRUE(db->Delete(rocksdb::WriteOptions(), EncodeKey(key)).ok());
  };
  EXPECT_EQ(LoadAfter([](rocksdb::DB*) {}), "OK");
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { remove(db, {.kind = RowKind::kStore}); }),
              HasSubstr("the store's own row is not there"));
  const auto fresh = [this] {
    for (const std::string& file : folder_.Files()) folder_.Remove(file);
  };
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { remove(db, {.kind = RowKind::kSession, .session = "s"}); }),
              HasSubstr("session \"s\", worker 0: the session's own row is not there"));
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { remove(db, {.kind = RowKind::kSession, .session = "t"}); }),
              HasSubstr("1 sessions are there, 2 were committed"));
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) {
                remove(db, {.kind = RowKind::kLayer, .session = "s", .layer = "1.a"});
                remove(db, {.kind = RowKind::kLayer, .session = "s", .layer = "1.\xe5\xb1\xa4"});
              }),
              HasSubstr("session \"s\": "));
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { remove(db, {.kind = RowKind::kWorker, .session = "s", .ordinal = 0}); }),
              HasSubstr("worker 0 is not there"));
  fresh();  // An older row, good by itself.
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { put(db, worker, EncodeRow(worker, store::v1::WorkerRow())->value); }),
              HasSubstr("session \"s\": some worker's or layer's row is not the one that was committed last"));
  fresh();
  EXPECT_THAT(
      LoadAfter([&](rocksdb::DB* db) { put(db, layer + "2", EncodeRow(layer + "2", store::v1::LayerRow())->value); }),
      HasSubstr("session \"s\": "));
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { put(db, layer, "\x01nonsense"); }),
              HasSubstr("session \"s\", layer \"1.a\": its checksum is wrong"));
  fresh();
  EXPECT_THAT(LoadAfter([&](rocksdb::DB* db) { put(db, "\x03", "x"); }), HasSubstr("a row has the key \"\\x03\""));
}

// A crash while the number of a commit is written tears that number alone.
TEST_F(RocksDbStoreTest, ATornMarkAsksForTheCommitThatItWasAbout) {
  constexpr size_t kPlaces[] = {0, 4096};
  const auto commit = [this] {
    const auto store = NewStore();
    const uint64_t epoch = store->Open().value();
    EXPECT_TRUE(store->Commit(epoch, {RandomCheckpoint(rng_, "s")}).ok());
  };
  commit();
  const StoreFolder before;
  before.CopyFrom(folder_.path());
  {
    const auto store = NewStore();
    ASSERT_TRUE(store->Open().ok());
  }
  const StoreFolder after;  // one commit later
  after.CopyFrom(folder_.path());
  const std::string mark = before.Read("COMMITTED");
  // Of the two places the one that the later commit was written to.
  const size_t torn = mark.substr(0, 16) == after.Read("COMMITTED").substr(0, 16) ? kPlaces[1] : kPlaces[0];
  std::string damaged = mark;
  damaged.replace(torn, 9, "torn torn");
  const auto open = [&](const StoreFolder& files, const std::string& committed) {
    folder_.CopyFrom(files.path());
    folder_.Write("COMMITTED", committed);
    const auto store = NewStore();
    const absl::Status status = store->Open().status();
    return status.ok() ? store->Load().status().ToString() : status.ToString();
  };
  EXPECT_EQ(open(after, mark), "OK") << "written, not marked";
  EXPECT_EQ(open(after, damaged), "OK") << "written, half marked";
  EXPECT_THAT(open(before, damaged), HasSubstr("goes back in time"));
  EXPECT_THAT(open(before, after.Read("COMMITTED")), HasSubstr("goes back in time"));
  damaged.replace(4096 - torn, 9, "torn torn");
  EXPECT_THAT(open(after, damaged), HasSubstr("COMMITTED is damaged: it names no commit"));
  // Once opened, a torn place is whole again.
  damaged = mark;
  damaged.replace(torn, 9, "torn torn");
  EXPECT_EQ(open(after, damaged), "OK");
  EXPECT_TRUE(NewStore()->Open().ok());
  EXPECT_TRUE(NewStore()->Open().ok());
}

TEST_F(RocksDbStoreTest, RefusesWhatItCannotKeepAndGoesOn) {
  const auto store = NewStore();
  EXPECT_EQ(store->Commit(0, {}).code(), absl::StatusCode::kFailedPrecondition);
  const uint64_t epoch = store->Open().value();
  EXPECT_EQ(store->Commit(epoch, {PlainCheckpoint(std::string("a\0b", 3))}).code(), absl::StatusCode::kInvalidArgument);
  SessionCheckpoint gap = PlainCheckpoint("s");
  gap.workers = {{.id = "w", .ordinal = 1}};
  EXPECT_EQ(store->Commit(epoch, {gap}).code(), absl::StatusCode::kInvalidArgument);
  gap.workers = {{.id = "w", .ordinal = 1}, {.id = "v", .ordinal = 0}};
  EXPECT_TRUE(store->Commit(epoch, {gap}).ok());
  EXPECT_EQ(store->Load()->at(0).workers.size(), 2u);
}

TEST_F(RocksDbStoreTest, FoldersThatCannotBeMadeAreNamed) {
  folder_.Write("file", "");
  const auto store = NewRocksDbStore({.path = folder_.path() + "/file/store"});
  const absl::Status status = store->Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot make the folder " + folder_.path() + "/file/store"));
  const auto deep = NewRocksDbStore({.path = folder_.path() + "/a/b/c"});
  EXPECT_TRUE(deep->Open().ok());
}

TEST_F(RocksDbStoreTest, UsageIsThatOfTheFilesEachSecond) {
  const auto store = NewStore();
  EXPECT_EQ(store->GetUsage().bytes, 0u);
  const uint64_t epoch = store->Open().value();
  clock_.elapsed += absl::Seconds(1);
  const StoreUsage before = store->GetUsage();
  EXPECT_GT(before.bytes, 4096u);
  EXPECT_GT(before.free_bytes, 0u);
  folder_.Write("ballast", std::string(100000, 'x'));
  EXPECT_EQ(store->GetUsage().bytes, before.bytes);
  clock_.elapsed += absl::Seconds(1);
  EXPECT_GE(store->GetUsage().bytes, before.bytes + 100000);
  EXPECT_TRUE(store->Commit(epoch, {}).ok());
}

TEST_F(RocksDbStoreTest, CommitsOfManyThreadsAreAllThere) {
  constexpr int kThreads = 4, kCommits = 20;
  const auto store = NewRocksDbStore({.path = folder_.path()});
  const uint64_t epoch = store->Open().value();
  std::vector<SessionCheckpoint> sessions;
  for (int i = 0; i < kThreads; ++i) sessions.push_back(RandomCheckpoint(rng_, absl::StrCat("s", i)));
  std::atomic<bool> stop = false;
  std::thread usage([&] {
    while (!stop) store->GetUsage();
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Rng rng(i);
      EXPECT_TRUE(store->Commit(epoch, {sessions[i]}).ok());
      for (int commit = 0; commit < kCommits; ++commit) {
        EXPECT_TRUE(store->Commit(epoch, {RandomChange(rng, &sessions[i])}).ok());
        EXPECT_TRUE(store->Delete(epoch, absl::StrCat("none", i)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  stop = true;
  usage.join();
  EXPECT_EQ(Describe(store->Load().value()), Describe(sessions));
}

}  // namespace
}  // namespace calib::server::test
