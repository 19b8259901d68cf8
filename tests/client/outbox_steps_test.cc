#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "client/cpp/outbox.h"
#include "proto/codec/error.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const ObserverConfig kEma{.kind = ObserverKind::kEma};
const ObserverConfig kReference{.kind = ObserverKind::kReferenceHistogram};

// A step of one value.
Step EmaStep(float value) { return {.ranges = {Range{.min = value, .max = value, .count = 1}}}; }

v1::Welcome WelcomeAt(uint64_t applied, uint64_t durable) {
  v1::Welcome welcome;
  welcome.set_applied(applied);
  welcome.set_durable(durable);
  return welcome;
}

// The values of the steps that are sent now, in order.
std::vector<float> Send(Outbox* outbox) {
  std::vector<float> values;
  while (const auto message = outbox->NextMessage(true)) {
    if (!message->has_update()) continue;
    EXPECT_EQ(message->update().first(), message->update().last());
    EXPECT_EQ(message->update().statistics().layer_size(), 1) << "one step a message";
    values.push_back(message->update().statistics().min(0));
  }
  return values;
}

TEST(OutboxSteps, AreSentOneByOneInOrder) {
  Outbox outbox(1);
  for (const float value : {3.0f, 1.0f, 2.0f}) ASSERT_TRUE(outbox.AddStep("a", kEma, EmaStep(value)).ok());
  ASSERT_TRUE(outbox.AddStep("b", kEma, EmaStep(9)).ok());
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(0, 0)).ok());
  EXPECT_THAT(Send(&outbox), ElementsAre(3, 1, 2, 9));
}

TEST(OutboxSteps, WhatWasNotAppliedIsSentAgainAsItWas) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(0, 0)).ok());
  for (int i = 1; i <= 5; ++i) {
    ASSERT_TRUE(outbox.AddStep("a", kEma, EmaStep(static_cast<float>(i))).ok());
    EXPECT_THAT(Send(&outbox), ElementsAre(static_cast<float>(i)));
  }
  ASSERT_TRUE(outbox.AddStep("a", kEma, EmaStep(6)).ok());
  // Units 1 to 3 were applied, 1 is durable.
  outbox.OnStreamEnd();
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(3, 1)).ok());
  EXPECT_THAT(Send(&outbox), ElementsAre(4, 5, 6));
  // The server restarts from what was durable.
  outbox.OnStreamEnd();
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(1, 1)).ok());
  EXPECT_THAT(Send(&outbox), ElementsAre(2, 3, 4, 5, 6));
  v1::Ack ack;
  ack.set_applied(6);
  ack.set_durable(6);
  ASSERT_TRUE(outbox.OnAck(ack).ok());
  EXPECT_EQ(outbox.raw_bytes(), 0u);
}

TEST(OutboxSteps, ARefusedLayerLosesItsOwnStepsAlone) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(0, 0)).ok());
  for (int i = 1; i <= 3; ++i) {
    ASSERT_TRUE(outbox.AddStep("a", kEma, EmaStep(static_cast<float>(i))).ok());
    ASSERT_TRUE(outbox.AddStep("b", kEma, EmaStep(static_cast<float>(10 * i))).ok());
  }
  EXPECT_THAT(Send(&outbox), ElementsAre(1, 10, 2, 20, 3, 30));
  v1::Refusal refusal;
  refusal.set_first(3);
  refusal.set_last(3);
  refusal.set_applied(2);
  refusal.set_code(static_cast<int>(absl::StatusCode::kAborted));
  refusal.set_message("another grid");
  refusal.mutable_info()->set_domain("calibd");
  refusal.mutable_info()->set_reason(ReasonName(v1::ERROR_REASON_REFERENCE_GRID_MISMATCH));
  EXPECT_EQ(outbox.OnRefusal(refusal), RefusalMeaning::kDataRefused);
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(2, 0)).ok());
  EXPECT_THAT(Send(&outbox), ElementsAre(20, 30));
  EXPECT_EQ(GetReason(outbox.AddStep("a", kEma, EmaStep(4))), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_TRUE(outbox.AddStep("b", kEma, EmaStep(40)).ok());
  EXPECT_EQ(outbox.values_refused(), 2u);
}

TEST(OutboxSteps, NothingThatFitsIntoNoMessageOrHasNoChannelIsTaken) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(WelcomeAt(0, 0)).ok());
  EXPECT_TRUE(outbox.AddStep("none", kEma, Step{}).ok());
  Step step = EmaStep(1);
  step.counts.assign(400000, 0);
  step.grid = {-1, 1, 400000};
  EXPECT_EQ(GetReason(outbox.AddStep("a", kReference, step)), v1::ERROR_REASON_REFERENCE_TOO_LARGE);
  EXPECT_THAT(Send(&outbox), IsEmpty());
  EXPECT_EQ(outbox.raw_bytes(), 0u);
  step.counts.resize(300000);
  step.grid.bins = 300000;
  EXPECT_TRUE(outbox.AddStep("a", kReference, step).ok());
  EXPECT_LT(outbox.raw_bytes(), 4u << 20);
}

}  // namespace
}  // namespace calib::client
