// State files of sessions with synchronous steps, and of learned layers.

#include <gmock/gmock.h>

#include "server/engine/state_export.h"
#include "server/engine/state_import.h"
#include "tests/engine/synchronous_fixture.h"

namespace calib::server::test {
namespace {

class StateStepsTest : public SynchronousFixture {
 protected:
  StateStepsTest() {
    for (const char* name : {"a", "c"}) CreateSynchronous({.world_size = 1}, name);
  }

  std::string Export(const std::string& session) {
    std::string file;
    const absl::StatusOr<std::unique_ptr<StateExport>> state = StateExport::Begin(engine_.get(), session);
    EXPECT_TRUE(state.ok()) << state.status();
    while ((*state)->Next(&file).value_or(false)) {
    }
    return file;
  }
  absl::StatusOr<StateMerge> Import(const std::string& session, const std::string& file) {
    StateImport import(engine_.get());
    if (absl::Status status = import.Add(file); !status.ok()) return status;
    return import.Merge(engine_->FindSession(session)->get(), /*skip_unmergeable=*/false);
  }
  static RankStep Learned(std::vector<float> values) { return {{{kLearnedHandle, std::move(values)}}}; }
  const ChannelStatistics LearnedOf(const std::string& session) {
    return engine_->FindSession(session).value()->GetLayer("learned")->statistics.channels().at(0);
  }
};

TEST_F(StateStepsTest, OpenStepsRefuseAnImportUntilTheyAreComplete) {
  CreateSynchronous({.world_size = 2}, "two");
  TestStream a = OpenRank(0, "", "a");
  ASSERT_TRUE(Give(&a, 1, {{{0, {1, 2}}}}).ok());
  const std::string file = Export("a");
  TestStream first = OpenRank(0, "first", "two");
  TestStream second = OpenRank(1, "second", "two");
  ASSERT_TRUE(Give(&first, 1, Ema({1, 2})).ok());
  EXPECT_EQ(ReasonOf(Import("two", file).status()), v1::ERROR_REASON_SYNCHRONOUS_STEPS_OPEN);
  ASSERT_TRUE(Give(&second, 1, Ema({3})).ok());
  EXPECT_TRUE(Import("two", file).ok());
}

TEST_F(StateStepsTest, WhatOneSideLearnedStaysAndStatisticsMerge) {
  TestStream a = OpenRank(0, "", "a");
  ASSERT_TRUE(Give(&a, 1, Learned({1, 2})).ok());
  ASSERT_TRUE(a.Send(GradientContribution(1, 2, kLearnedHandle, {0.25}, 2)).ok());
  ASSERT_TRUE(LearnedOf("a").learned.has_value());
  // Into a session without data of it: all of it.
  ASSERT_TRUE(Import("c", Export("a")).ok());
  EXPECT_EQ(LearnedOf("c"), LearnedOf("a"));
  // A second session that has learned can't be merged into it.
  CreateSynchronous({.world_size = 1}, "d");
  TestStream d = OpenRank(0, "", "d");
  ASSERT_TRUE(Give(&d, 1, Learned({5})).ok());
  const absl::Status refused = Import("c", Export("d")).status();
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_STATE_UNMERGEABLE) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("learned"));
  EXPECT_EQ(LearnedOf("c"), LearnedOf("a"));
}

TEST_F(StateStepsTest, AnAverageGoesOnWhereItWasTakenOver) {
  CreateSynchronous({.world_size = 1}, "all");
  TestStream a = OpenRank(0, "", "a"), all = OpenRank(0, "", "all");
  for (TestStream* stream : {&a, &all}) ASSERT_TRUE(Give(stream, 1, Ema({1, 2})).ok());
  ASSERT_TRUE(Import("c", Export("a")).ok());
  TestStream c = OpenRank(0, "", "c");
  ASSERT_TRUE(Give(&c, 1, Ema({-3, 7})).ok());
  ASSERT_TRUE(Give(&all, 2, Ema({-3, 7})).ok());
  EXPECT_EQ(EmaOf(**engine_->FindSession("c")), EmaOf(**engine_->FindSession("all")));
}

}  // namespace
}  // namespace calib::server::test
