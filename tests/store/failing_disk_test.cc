// A disk that fails at every moment of a store's life: what was acknowledged is there, what is there was committed as a
// whole, and commits go on once the disk works again.
#include "tests/store/failing_disk.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/store/checkpoints.h"
#include "tests/store/temporary_store.h"
#include "tests/support/sample.h"

namespace calib::server::test {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr int kCommits = 3;

// States of a session, one after the other; each is committed in full.
std::vector<SessionCheckpoint> MakeStates() {
  Rng rng(71);
  std::vector<SessionCheckpoint> states = {RandomCheckpoint(rng, "s")};
  while (states.size() < kCommits) {
    SessionCheckpoint next = states.back();
    RandomChange(rng, &next);
    states.push_back(std::move(next));
  }
  return states;
}

class FailingDiskTest : public ::testing::Test {
 protected:
  std::string StateName(size_t state) const { return absl::StrCat("state ", state); }

  // What a server finds that starts now with a disk that works: the name of a state, "" for none.
  std::string Contents() const {
    const TemporaryFolder copy;
    copy.CopyFrom(folder_.path());
    const auto store = StoreIn(copy);
    const absl::StatusOr<uint64_t> epoch = store->Open();
    EXPECT_TRUE(epoch.ok()) << epoch.status();
    const absl::StatusOr<std::vector<SessionCheckpoint>> sessions = store->Load();
    EXPECT_TRUE(sessions.ok()) << sessions.status();
    const std::string found = sessions.ok() ? Describe(*sessions) : "";
    for (size_t i = 0; i < states_.size(); ++i) {
      if (found == Describe(states_[i])) return StateName(i);
    }
    return found;
  }

  void ExpectPossible(const std::string& what) const { EXPECT_THAT(possible_, Contains(Contents())) << what; }

  // A change after which the store holds `after`.
  void Try(const absl::Status& status, const std::string& after) {
    if (status.ok()) {
      possible_ = {after};
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.path()));
    possible_.push_back(after);
  }

  // A life of the store in which the disk fails after so many operations. Returns whether it did.
  bool Live(int operations, Failure failure, bool once, bool full) {
    const std::string what = absl::StrCat("operation ", operations, ", failure ", static_cast<int>(failure), once);
    for (const std::string& file : folder_.Files()) folder_.Remove(file);
    possible_ = {""};
    FailingDisk disk;
    disk.FailAfter(operations, failure, once, full);
    auto store = StoreIn(folder_, disk.env());
    absl::StatusOr<uint64_t> epoch = store->Open();
    if (!epoch.ok()) {
      EXPECT_EQ(epoch.status().code(), absl::StatusCode::kUnavailable) << epoch.status();
      store.reset();
      ExpectPossible(what);
      disk.Repair();
      store = StoreIn(folder_, disk.env());
      epoch = store->Open();
    }
    EXPECT_TRUE(epoch.ok()) << what << epoch.status();
    if (!epoch.ok()) return true;
    bool noted = false;
    for (size_t i = 0; i < states_.size(); ++i) {
      const SessionCheckpoint& state = states_[i];
      Try(store->Commit(*epoch, {state}), StateName(i));
      if (disk.failed() && !noted) {
        noted = true;
        ExpectPossible(what);
        // Once more while the disk fails, if it still does.
        Try(store->Commit(*epoch, {state}), StateName(i));
        ExpectPossible(what);
        disk.Repair();
        const absl::Status repaired = store->Commit(*epoch, {state});
        EXPECT_TRUE(repaired.ok()) << what << ": " << repaired;
        Try(repaired, StateName(i));
      }
    }
    Try(store->Delete(*epoch, "s"), "");
    ExpectPossible(what);
    const bool failed = disk.failed();
    disk.Repair();
    Try(store->Delete(*epoch, "s"), "");
    ExpectPossible(what);
    const absl::Status last = store->Commit(*epoch, {states_[0]});
    EXPECT_TRUE(last.ok()) << what << ": " << last;
    Try(last, StateName(0));
    ExpectPossible(what);
    return failed;
  }

  // Of every operation of a life.
  void LiveWithEach(Failure failure, bool once, bool full) {
    int operations = 0;
    calib::test::Sample sample(7);
    while (operations < 1000 && (!sample.Take() || Live(operations, failure, once, full)) && !HasFailure())
      ++operations;
    EXPECT_GT(operations, 20);
    EXPECT_LT(operations, 1000);
  }

  const std::vector<SessionCheckpoint> states_ = MakeStates();
  const TemporaryFolder folder_;
  std::vector<std::string> possible_;  // what the store may hold now
};

TEST_F(FailingDiskTest, FailsOnce) { LiveWithEach(Failure::kNothing, /*once=*/true, /*full=*/false); }
TEST_F(FailingDiskTest, FailsOnceAndTearsWhatIsWritten) { LiveWithEach(Failure::kTorn, true, false); }
TEST_F(FailingDiskTest, FailsOnceAfterTheDeed) { LiveWithEach(Failure::kLate, true, false); }
TEST_F(FailingDiskTest, FailsUntilItIsRepaired) { LiveWithEach(Failure::kTorn, false, false); }
TEST_F(FailingDiskTest, IsFullUntilThereIsSpace) { LiveWithEach(Failure::kTorn, false, true); }

TEST_F(FailingDiskTest, FullDiskSaysSo) {
  FailingDisk disk;
  const auto store = StoreIn(folder_, disk.env());
  const uint64_t epoch = store->Open().value();
  disk.FailAfter(0, Failure::kTorn, false, true);
  EXPECT_THAT(std::string(store->Commit(epoch, {states_[0]}).message()), HasSubstr("no space left"));
  EXPECT_THAT(std::string(store->Commit(epoch, {states_[0]}).message()), HasSubstr("make room"));
  disk.Repair();
  EXPECT_TRUE(store->Commit(epoch, {states_[0]}).ok());
}

}  // namespace
}  // namespace calib::server::test
