#include "client/cli/synchronous_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/json_output.h"
#include "client/cli/push_sync.h"
#include "client/cli/watch_view.h"

namespace calib::cli {
namespace {

using testing::HasSubstr;

v1::SynchronousStatus Status() {
  v1::SynchronousStatus status;
  status.mutable_world()->set_epoch(2);
  status.mutable_world()->set_size(4);
  status.set_folded_step(41);
  status.set_durable_step(40);
  return status;
}

TEST(SynchronousViewTest, QuietStepsTakeOneLine) {
  EXPECT_EQ(SynchronousText(Status()), "4 ranks (world epoch 2), step 41 folded, 40 durable\n");
  v1::SynchronousStatus one = Status();
  one.mutable_world()->set_size(1);
  EXPECT_EQ(SynchronousText(one), "1 rank (world epoch 2), step 41 folded, 40 durable\n");
}

TEST(SynchronousViewTest, RanksThatAreAwaitedAreNamedAndIncidentsCounted) {
  v1::SynchronousStatus status = Status();
  status.set_open_steps(2);
  status.add_missing_rank(1);
  status.add_missing_rank(3);
  status.set_missing_ranks(2);
  status.mutable_open_for()->set_seconds(1);
  status.mutable_open_for()->set_nanos(250000000);
  status.set_partial_steps(5);
  status.set_late_contributions(7);
  EXPECT_EQ(SynchronousText(status),
            "4 ranks (world epoch 2), step 41 folded, 40 durable, 2 open; step 42 has waited 1.2 s for ranks 1, 3\n"
            "5 steps closed without some rank, 7 contributions late\n");
}

TEST(SynchronousViewTest, ManyMissingRanksAreCounted) {
  v1::SynchronousStatus status;
  EXPECT_EQ(MissingRanks(status), "");
  status.set_missing_ranks(1);
  status.add_missing_rank(6);
  EXPECT_EQ(MissingRanks(status), "rank 6");
  for (uint32_t rank = 7; rank < 70; ++rank) status.add_missing_rank(rank);
  status.set_missing_ranks(1000);
  EXPECT_EQ(MissingRanks(status), "ranks 6, 7, 8, 9, 10, 11, 12, 13 and 992 more");
}

TEST(SynchronousViewTest, JsonSaysWhatThereIs) {
  v1::Session session;
  EXPECT_TRUE(ToJson(session)["synchronous"].is_null());
  *session.mutable_synchronous() = Status();
  session.mutable_synchronous()->add_missing_rank(3);
  const Json json = ToJson(session)["synchronous"];
  EXPECT_EQ(json["world_size"], 4);
  EXPECT_EQ(json["world_epoch"], 2);
  EXPECT_EQ(json["folded_step"], 41);
  EXPECT_EQ(json["missing_rank"], std::vector<int>{3});
  v1::WorkerStatus worker;
  EXPECT_TRUE(ToJson(worker)["rank"].is_null());
  worker.set_rank(0);
  EXPECT_EQ(ToJson(worker)["rank"], 0);
}

TEST(SynchronousViewTest, WatchShowsRanks) {
  v1::WatchQParamsResponse state;
  state.mutable_session()->set_name("demo");
  *state.mutable_session()->mutable_synchronous() = Status();
  state.mutable_session()->mutable_synchronous()->set_failed_steps(1);
  v1::WorkerStatus* const worker = state.add_worker();
  worker->set_worker_id("one");
  worker->set_rank(2);
  worker->set_step(42);
  state.add_worker()->set_worker_id("two");
  EXPECT_THAT(WatchLine(state), HasSubstr("workers connected; 4 ranks (world epoch 2), step 41 folded, 40 durable; "
                                          "1 step failed"));
  WatchView view;
  view.Update(state);
  EXPECT_THAT(view.Screen(), HasSubstr("\n4 ranks (world epoch 2)"));
  EXPECT_THAT(view.Screen(), testing::ContainsRegex("WORKER +STATE +APPLIED +DURABLE +LAG +RANK +STEP"));
  EXPECT_THAT(view.Screen(), testing::ContainsRegex("one +away +0 +0 +0 +2 +42"));
  EXPECT_THAT(view.Screen(), testing::ContainsRegex("two +away +0 +0 +0 +- +-"));
}

TEST(SynchronousViewTest, PushesThatCannotBeAreRefused) {
  v1::Session session;
  session.set_name("demo");
  const auto check = [&](std::optional<uint32_t> ranks, std::optional<uint32_t> rank) {
    return CheckSyncPush({ranks, rank}, session);
  };
  EXPECT_THAT(std::string(check({}, {}).message()), HasSubstr("no synchronous steps"));
  *session.mutable_synchronous() = Status();
  EXPECT_TRUE(check({}, {}).ok());
  EXPECT_TRUE(check(4, 3).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(check({}, 4)));
  EXPECT_TRUE(absl::IsFailedPrecondition(check(2, {})));
  EXPECT_THAT(std::string(check(2, {}).message()), HasSubstr("set-world demo --world-size 2"));
  session.mutable_synchronous()->mutable_world()->set_size(257);
  EXPECT_TRUE(absl::IsInvalidArgument(check({}, {})));
  EXPECT_TRUE(check({}, 256).ok());
}

}  // namespace
}  // namespace calib::cli
