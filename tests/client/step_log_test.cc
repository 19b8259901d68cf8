#include "client/cpp/step_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::client {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class StepLogTest : public testing::Test {
 protected:
  void Welcome(uint64_t folded, uint64_t durable, uint64_t epoch = 1, uint32_t size = 2) {
    const absl::Status status = log_.OnWelcome(MakeWelcome(folded, durable, epoch, size));
    ASSERT_TRUE(status.ok()) << status;
  }
  static v1::Welcome MakeWelcome(uint64_t folded, uint64_t durable, uint64_t epoch = 1, uint32_t size = 2) {
    v1::Welcome welcome;
    welcome.mutable_world()->set_epoch(epoch);
    welcome.mutable_world()->set_size(size);
    welcome.set_folded_step(folded);
    welcome.set_durable_step(durable);
    welcome.mutable_config()->mutable_synchronous()->set_window(2);
    return welcome;
  }
  std::shared_ptr<StepTicket> Add(uint64_t step, const std::string& layer = "a") {
    EncodedStep encoded;
    encoded.request = std::make_shared<v1::ObserveRequest>();
    const auto info = log_.layers().Find(layer, ObserverRules());
    EXPECT_TRUE(info.ok());
    encoded.request->mutable_step_contribution()->mutable_statistics()->add_layer((*info)->number);
    encoded.layers_used = (*info)->number + 1;
    encoded.values = std::make_shared<std::vector<StepValues>>();
    encoded.bytes = 10;
    auto ticket = std::make_shared<StepTicket>();
    log_.Add(step, std::move(encoded), ticket);
    return ticket;
  }
  // What is sent now: "+a" registers a layer, "5" contributes to a step, "#5" counts.
  std::vector<std::string> Sent() {
    std::vector<std::string> sent;
    while (const auto message = log_.NextMessage()) {
      for (const std::string& name : message->register_layers().name()) sent.push_back("+" + name);
      if (message->has_step_contribution()) sent.push_back(absl::StrCat(message->step_contribution().step()));
      if (message->has_step_counts()) sent.push_back(absl::StrCat("#", message->step_counts().step()));
    }
    return sent;
  }
  void Result(uint64_t step) {
    v1::StepResult result;
    result.set_step(step);
    result.set_counted(true);
    log_.OnResult(&result);
  }
  absl::Status Ack(uint64_t folded, uint64_t durable) {
    v1::Ack ack;
    ack.set_folded_step(folded);
    ack.set_durable_step(durable);
    return log_.OnAck(ack);
  }
  StepLog::AfterRefusal Refuse(uint64_t step, v1::ErrorReason reason, const std::string& expected = "") {
    v1::Refusal refusal;
    refusal.set_step(step);
    refusal.set_code(static_cast<int>(CodeOfReason(reason)));
    refusal.mutable_info()->set_reason(ReasonName(reason));
    refusal.mutable_info()->set_domain("calibd");
    if (!expected.empty()) (*refusal.mutable_info()->mutable_metadata())["expected"] = expected;
    return log_.OnRefusal(refusal, &reason_);
  }

  std::vector<uint64_t> changed_;
  StepLog log_{1, [this](StepTicket& ticket) { changed_.push_back(ticket.step); }};
  absl::Status reason_;
};

TEST_F(StepLogTest, AContributionIsKeptUntilItIsDurable) {
  EXPECT_THAT(Sent(), IsEmpty());
  Welcome(0, 0);
  const auto ticket = Add(1);
  EXPECT_THAT(Sent(), ElementsAre("+a", "1"));
  EXPECT_THAT(Sent(), IsEmpty());
  EXPECT_EQ(log_.next_step(), 2u);
  Result(1);
  EXPECT_TRUE(ticket->answered && ticket->status.ok());
  EXPECT_EQ(ticket->result->step(), 1u);
  EXPECT_THAT(changed_, ElementsAre(1));
  EXPECT_EQ(log_.kept_bytes(), 10u);
  ASSERT_TRUE(Ack(1, 0).ok());
  EXPECT_FALSE(log_.empty());
  ASSERT_TRUE(Ack(1, 1).ok());
  EXPECT_TRUE(log_.empty());
  EXPECT_EQ(log_.kept_bytes(), 0u);
  EXPECT_EQ(log_.next_step(), 2u);
}

TEST_F(StepLogTest, ANewStreamGetsWhatIsLostAndWhatIsNotAnswered) {
  Welcome(0, 0);
  Add(1);
  Add(2);
  EXPECT_THAT(Sent(), ElementsAre("+a", "1", "2"));
  Result(1);
  log_.OnStreamEnd();
  EXPECT_THAT(Sent(), IsEmpty());
  Welcome(2, 0);  // 2 was folded, and its answer lost
  EXPECT_THAT(Sent(), ElementsAre("+a", "2"));
  Result(2);
  Add(3);
  Result(3);
  Welcome(0, 0);  // the server restarted
  EXPECT_THAT(Sent(), ElementsAre("+a", "1", "2")) << "no further than the window";
  EXPECT_EQ(log_.next_step(), 4u);
  EXPECT_FALSE(log_.HasMessage());
  Result(1);
  EXPECT_THAT(Sent(), ElementsAre("3"));
  EXPECT_THAT(changed_, ElementsAre(1, 2, 3)) << "each is answered once";
}

TEST_F(StepLogTest, AServerThatForgotDurableStepsIsFound) {
  Welcome(3, 2);
  EXPECT_FALSE(log_.IsSettled());
  EXPECT_EQ(log_.next_step(), 4u);
  Welcome(2, 2);  // what nobody contributed to yet may come back
  EXPECT_TRUE(log_.IsSettled());
  EXPECT_EQ(log_.next_step(), 3u);
  EXPECT_TRUE(absl::IsDataLoss(log_.OnWelcome(MakeWelcome(1, 1))));
  Welcome(2, 2, 5);
  EXPECT_TRUE(absl::IsDataLoss(log_.OnWelcome(MakeWelcome(2, 2, 4)))) << "a world that was left";
  EXPECT_TRUE(absl::IsInternal(Ack(2, 3)));
  EXPECT_TRUE(absl::IsInternal(Ack(2, 1)));
}

// A server may die after it told of a new world and before that was durable.
TEST_F(StepLogTest, ARestartedServerMayHaveForgottenAWorld) {
  Welcome(1, 1, 2, 4);
  const auto open = Add(2);
  v1::Welcome restarted = MakeWelcome(1, 1, 1, 3);
  restarted.set_server_epoch(7);
  ASSERT_TRUE(log_.OnWelcome(restarted).ok());
  EXPECT_EQ(log_.world(), (StepWorld{1, 3}));
  EXPECT_EQ(GetReason(open->status), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  log_.TakeWorldNews();
  // Then another world has the number of the forgotten one.
  const auto anew = Add(2);
  restarted = MakeWelcome(1, 1, 1, 5);
  restarted.set_server_epoch(8);
  ASSERT_TRUE(log_.OnWelcome(restarted).ok());
  EXPECT_EQ(GetReason(anew->status), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  EXPECT_EQ(log_.next_step(), 2u);
}

TEST_F(StepLogTest, AWorldThatChangesDropsWhatIsNotFolded) {
  Welcome(0, 0);
  const auto folded = Add(1);
  const auto open = Add(2);
  Sent();
  Result(1);
  v1::World world;
  world.set_epoch(2);
  world.set_size(3);
  log_.OnWorld(world);
  EXPECT_TRUE(folded->status.ok());
  EXPECT_EQ(GetReason(open->status), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  EXPECT_THAT(std::string(open->status.message()), HasSubstr("anew from step 2 on"));
  EXPECT_EQ(log_.world(), (StepWorld{2, 3}));
  EXPECT_EQ(log_.next_step(), 2u);
  EXPECT_EQ(GetReason(log_.news(false)), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  log_.TakeWorldNews();
  EXPECT_TRUE(log_.news(true).ok());
  const auto anew = Add(2);
  const auto message = log_.NextMessage();
  EXPECT_EQ(message->step_contribution().world_epoch(), 2u);
  // The refusal of the older one comes late.
  EXPECT_EQ(Refuse(2, v1::ERROR_REASON_WORLD_EPOCH_STALE), StepLog::AfterRefusal::kGoOn);
  EXPECT_FALSE(anew->answered);
}

TEST_F(StepLogTest, WhatWasFoldedAndLostIsAskedForAgainInANewWorld) {
  Welcome(0, 0);
  Add(1);
  Add(2);
  Sent();
  Result(1);
  Result(2);
  ASSERT_TRUE(Ack(2, 1).ok());
  EXPECT_EQ(log_.next_step(), 3u);
  Welcome(1, 1, 2, 2);  // crashed, and SetWorld before this rank came back
  EXPECT_EQ(log_.next_step(), 2u);
  EXPECT_EQ(GetReason(log_.news(false)), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  EXPECT_TRUE(log_.empty());
}

TEST_F(StepLogTest, ARankThatTheWorldLosesHearsOfItAndGoesOnWhereItIsWhenItComesBack) {
  Welcome(0, 0);
  const auto change_world = [&](uint64_t epoch, uint32_t size) {
    v1::World world;
    world.set_epoch(epoch);
    world.set_size(size);
    log_.OnWorld(world);
    EXPECT_EQ(GetReason(log_.news(false)), v1::ERROR_REASON_WORLD_EPOCH_STALE);
    log_.TakeNews();
  };
  change_world(2, 1);
  EXPECT_EQ(GetReason(log_.news(false)), v1::ERROR_REASON_RANK_INVALID);
  log_.TakeNews();
  EXPECT_EQ(GetReason(log_.news(false)), v1::ERROR_REASON_RANK_INVALID) << "it stays so";
  ASSERT_TRUE(Ack(7, 7).ok());
  change_world(3, 2);
  EXPECT_TRUE(log_.news(true).ok());
  EXPECT_EQ(log_.next_step(), 8u);
}

TEST_F(StepLogTest, ARefusedStepIsTheNextOneAgain) {
  Welcome(0, 0);
  const auto first = Add(1);
  const auto second = Add(2);
  Sent();
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_STEP_TIMED_OUT), StepLog::AfterRefusal::kGoOn);
  EXPECT_EQ(GetReason(first->status), v1::ERROR_REASON_STEP_TIMED_OUT);
  EXPECT_EQ(log_.next_step(), 1u);
  EXPECT_TRUE(log_.news(/*any_error=*/false).ok());
  EXPECT_EQ(GetReason(log_.news(/*any_error=*/true)), v1::ERROR_REASON_STEP_TIMED_OUT);
  log_.TakeNews();
  Add(1);
  EXPECT_EQ(log_.next_step(), 3u) << "step 2 has its contribution still";
  EXPECT_THAT(Sent(), ElementsAre("1"));
  EXPECT_FALSE(second->answered);
}

TEST_F(StepLogTest, WhatIsRepeatedForARestartedServerIsTriedAgainOrReportedAsLost) {
  Welcome(0, 0);
  Add(1);
  Sent();
  Result(1);
  Welcome(0, 0);
  EXPECT_THAT(Sent(), ElementsAre("+a", "1"));
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_STEP_TIMED_OUT), StepLog::AfterRefusal::kGoOn);
  EXPECT_THAT(Sent(), ElementsAre("1"));
  EXPECT_EQ(log_.next_step(), 2u);
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_OBSERVER_MISMATCH), StepLog::AfterRefusal::kEnd);
  EXPECT_TRUE(absl::IsDataLoss(reason_)) << reason_;
}

TEST_F(StepLogTest, AStepWhoseResultIsGoneIsOver) {
  Welcome(0, 0);
  const auto ticket = Add(1);
  Sent();
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_STEP_OUT_OF_WINDOW, "6"), StepLog::AfterRefusal::kGoOn);
  EXPECT_EQ(GetReason(ticket->status), v1::ERROR_REASON_STEP_OUT_OF_WINDOW);
  EXPECT_EQ(log_.next_step(), 6u);
}

TEST_F(StepLogTest, WhatEndsStreamsAndWorkers) {
  Welcome(0, 0);
  const auto ticket = Add(1);
  Sent();
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_STORE_FAILED), StepLog::AfterRefusal::kReopen);
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_SESSION_SEALED), StepLog::AfterRefusal::kEnd);
  EXPECT_EQ(GetReason(reason_), v1::ERROR_REASON_SESSION_SEALED);
  EXPECT_FALSE(ticket->answered);
  log_.EndAll(reason_);
  EXPECT_EQ(GetReason(ticket->status), v1::ERROR_REASON_SESSION_SEALED);
  EXPECT_TRUE(log_.empty());
}

TEST_F(StepLogTest, ARefusedNameTakesItsStepsAlong) {
  Welcome(0, 0);
  const auto good = Add(1, "good");
  Sent();
  Result(1);
  const auto bad = Add(2, "bad");
  EXPECT_THAT(Sent(), ElementsAre("+bad", "2"));
  EXPECT_EQ(Refuse(0, v1::ERROR_REASON_LIMIT_EXCEEDED), StepLog::AfterRefusal::kReopen);
  EXPECT_EQ(GetReason(bad->status), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(log_.layers_refused(), 1u);
  EXPECT_EQ(log_.layers().size(), 1u);
  Welcome(1, 0);
  log_.TakeNews();
  Add(2, "better");
  EXPECT_THAT(Sent(), ElementsAre("+good", "+better", "2"));
}

// Layers with a reference histogram.
class StepLogCountsTest : public StepLogTest {
 protected:
  void Asked(uint64_t step, double high) {
    v1::StepGrids grids;
    grids.set_step(step);
    grids.set_world_epoch(1);
    grids.add_grid()->set_high(high);
    const absl::Status status = log_.OnGrids(grids);
    ASSERT_TRUE(status.ok()) << status;
  }
  std::shared_ptr<StepTicket> AddCounted(uint64_t step) {
    EncodedStep encoded;
    encoded.request = std::make_shared<v1::ObserveRequest>();
    encoded.values = std::make_shared<std::vector<StepValues>>(1);
    auto ticket = std::make_shared<StepTicket>();
    log_.Add(step, std::move(encoded), ticket);
    return ticket;
  }
  static std::shared_ptr<v1::ObserveRequest> CountsOf(const StepLog::CountJob& job) {
    auto request = std::make_shared<v1::ObserveRequest>();
    v1::StepCounts* const counts = request->mutable_step_counts();
    counts->set_step(job.grids->step());
    counts->set_world_epoch(job.grids->world_epoch());
    *counts->add_count()->mutable_grid() = job.grids->grid(0);
    return request;
  }
};

TEST_F(StepLogCountsTest, CountsAreMadeOnceAndSentAgain) {
  Welcome(0, 0);
  AddCounted(1);
  EXPECT_THAT(Sent(), ElementsAre("1"));
  Asked(1, 2.5);
  EXPECT_THAT(changed_, ElementsAre(1));
  const auto job = log_.TakeCountJob();
  ASSERT_TRUE(job.has_value());
  EXPECT_FALSE(log_.TakeCountJob().has_value()) << "one counts";
  log_.AddCounts(*job, CountsOf(*job));
  EXPECT_THAT(Sent(), ElementsAre("#1"));
  Result(1);
  Welcome(0, 0);
  EXPECT_THAT(Sent(), ElementsAre("1"));
  Asked(1, 2.5);
  EXPECT_FALSE(log_.HasCountJob());
  EXPECT_THAT(Sent(), ElementsAre("#1"));
}

TEST_F(StepLogCountsTest, AnotherGridIsCountedAnew) {
  Welcome(0, 0);
  AddCounted(1);
  Sent();
  Asked(1, 2.5);
  const auto first = log_.TakeCountJob();
  Asked(1, 4);
  log_.AddCounts(*first, CountsOf(*first));
  EXPECT_THAT(Sent(), IsEmpty());
  const auto second = log_.TakeCountJob();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->grids->grid(0).high(), 4);
  EXPECT_EQ(Refuse(1, v1::ERROR_REASON_REFERENCE_GRID_MISMATCH), StepLog::AfterRefusal::kGoOn);
  log_.AddCounts(*second, CountsOf(*second));
  EXPECT_THAT(Sent(), ElementsAre("#1"));
}

TEST_F(StepLogCountsTest, CountsOfWhatWasDroppedAreOfNoUse) {
  Welcome(0, 0);
  AddCounted(1);
  Sent();
  Asked(1, 2.5);
  const auto job = log_.TakeCountJob();
  Refuse(1, v1::ERROR_REASON_REFERENCE_TOO_LARGE);
  AddCounted(1);
  Asked(1, 2.5);
  log_.AddCounts(*job, CountsOf(*job));
  EXPECT_THAT(Sent(), ElementsAre("1"));
  EXPECT_TRUE(log_.HasCountJob());
}

TEST_F(StepLogCountsTest, GridsThatDoNotFitAreTheServersFault) {
  Welcome(0, 0);
  AddCounted(1);
  v1::StepGrids grids;
  grids.set_step(1);
  grids.set_world_epoch(1);
  EXPECT_TRUE(absl::IsInternal(log_.OnGrids(grids)));
}

}  // namespace
}  // namespace calib::client
