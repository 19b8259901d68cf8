#include "client/cpp/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/codec/error.h"
#include "tests/client/model_server.h"

namespace calib::client {
namespace {

using test::ModelServer;
using testing::ElementsAre;
using testing::HasSubstr;

// Statistics of `count` values, all of them `value`.
LayerStatistics Statistics(float value, uint64_t count = 1, ObserverConfig config = {}) {
  LayerStatistics statistics(config);
  statistics.SetChannelCount(1).IgnoreError();
  ChannelStatistics& channel = statistics.mutable_channels()[0];
  channel.range.min = channel.range.max = value;
  channel.range.count = count;
  if (channel.histogram.has_value()) channel.histogram->AddKey(Bfloat16Key(value), count);
  return statistics;
}

v1::TensorChunk Chunk(std::vector<float> values) {
  v1::TensorChunk chunk;
  chunk.set_data_type(v1::DATA_TYPE_FLOAT32);
  chunk.add_shape(values.size());
  chunk.set_data(values.data(), values.size() * sizeof(float));
  return chunk;
}

v1::Welcome Welcome(uint64_t applied, uint64_t durable) {
  v1::Welcome welcome;
  welcome.set_applied(applied);
  welcome.set_durable(durable);
  return welcome;
}

v1::Ack Ack(uint64_t applied, uint64_t durable) {
  v1::Ack ack;
  ack.set_applied(applied);
  ack.set_durable(durable);
  return ack;
}

v1::Refusal Refusal(uint64_t unit, v1::ErrorReason reason, absl::string_view layer = {}) {
  v1::Refusal refusal;
  refusal.set_first(unit);
  refusal.set_last(unit);
  refusal.set_code(static_cast<int>(CodeOfReason(reason)));
  refusal.set_message("no");
  refusal.mutable_info()->set_domain("calibd");
  refusal.mutable_info()->set_reason(ReasonName(reason));
  if (!layer.empty()) (*refusal.mutable_info()->mutable_metadata())["layer"] = std::string(layer);
  return refusal;
}

// The next message that is an update.
v1::Update NextUpdate(Outbox* outbox) {
  auto message = outbox->NextMessage(true);
  while (message != nullptr && !message->has_update()) message = outbox->NextMessage(true);
  return message == nullptr ? v1::Update() : message->update();
}

TEST(Outbox, SendsNothingBeforeAWelcome) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  EXPECT_TRUE(outbox.NextMessage(true) == nullptr);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  EXPECT_TRUE(outbox.NextMessage(true) != nullptr);
}

TEST(Outbox, RegistersLayersOnceOnEachStreamBeforeTheirUse) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  ASSERT_TRUE(outbox.Add("b", Statistics(2)).ok());
  for (int stream = 0; stream < 2; ++stream) {
    ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
    const auto registration = outbox.NextMessage(true);
    ASSERT_TRUE(registration != nullptr);
    EXPECT_EQ(registration->register_layers().first_handle(), 0u);
    EXPECT_THAT(registration->register_layers().name(), ElementsAre("a", "b"));
    const v1::Update update = NextUpdate(&outbox);
    EXPECT_THAT(update.statistics().layer(), ElementsAre(0, 1));
    EXPECT_EQ(update.first(), 1u);
    EXPECT_EQ(update.last(), 1u);
  }
  ASSERT_TRUE(outbox.Add("c", Statistics(3)).ok());
  const auto registration = outbox.NextMessage(true);
  EXPECT_EQ(registration->register_layers().first_handle(), 2u);
  EXPECT_THAT(registration->register_layers().name(), ElementsAre("c"));
}

TEST(Outbox, MergesWhatIsPendingAndNothingThatMayBeApplied) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 10)).ok());
  EXPECT_THAT(NextUpdate(&outbox).statistics().count(), ElementsAre(10));
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 100)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 1000)).ok());
  outbox.OnStreamEnd();
  EXPECT_TRUE(outbox.NextMessage(true) == nullptr);
  // Unit 1 was applied before the stream broke: only what came later is sent.
  ASSERT_TRUE(outbox.OnWelcome(Welcome(1, 0)).ok());
  const v1::Update update = NextUpdate(&outbox);
  EXPECT_EQ(update.first(), 2u);
  EXPECT_THAT(update.statistics().count(), ElementsAre(1100));
}

TEST(Outbox, MergesAfterAWelcomeSaysThatItWasNotApplied) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 10)).ok());
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.Add("a", Statistics(2, 100)).ok());
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.Add("a", Statistics(3, 1000)).ok());
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  const v1::Update update = NextUpdate(&outbox);
  EXPECT_EQ(update.first(), 1u);
  EXPECT_THAT(update.statistics().count(), ElementsAre(1110));
}

TEST(Outbox, SendsAgainWhatARestartedServerForgot) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(outbox.Add("a", Statistics(1, 1 << i)).ok());
    NextUpdate(&outbox);
  }
  ASSERT_TRUE(outbox.OnAck(Ack(3, 1)).ok());
  ASSERT_TRUE(outbox.OnWelcome(Welcome(1, 1)).ok());
  const v1::Update update = NextUpdate(&outbox);
  EXPECT_EQ(update.first(), 2u);
  EXPECT_THAT(update.statistics().count(), ElementsAre(2 + 4));
}

TEST(Outbox, SendsRawChunksAgainAsTheyWereAndInOrder) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  for (const float value : {1.0f, 2.0f, 3.0f}) ASSERT_TRUE(outbox.AddRaw("a", {}, 1, Chunk({value})).ok());
  NextUpdate(&outbox);
  const v1::Update second = NextUpdate(&outbox);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(1, 1)).ok());
  const v1::Update again = NextUpdate(&outbox);
  EXPECT_EQ(again.SerializeAsString(), second.SerializeAsString());
  EXPECT_EQ(NextUpdate(&outbox).tensor().data(), Chunk({3}).data());
}

TEST(Outbox, CountsRawBytesUntilTheyAreDurable) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.AddRaw("a", {}, 1, Chunk(std::vector<float>(1000))).ok());
  EXPECT_GE(outbox.raw_bytes(), 4000u);
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.OnAck(Ack(1, 0)).ok());
  EXPECT_GE(outbox.raw_bytes(), 4000u);
  ASSERT_TRUE(outbox.OnAck(Ack(1, 1)).ok());
  EXPECT_EQ(outbox.raw_bytes(), 0u);
}

TEST(Outbox, GoesOnWhereAnEarlierProcessStopped) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  ASSERT_TRUE(outbox.OnWelcome(Welcome(7, 5)).ok());
  EXPECT_EQ(NextUpdate(&outbox).first(), 8u);
  // The server crashes: units 6 and 7 were the earlier process's, which went without knowing them to be durable.
  ASSERT_TRUE(outbox.OnWelcome(Welcome(5, 5)).ok());
  EXPECT_EQ(NextUpdate(&outbox).first(), 6u);
}

TEST(Outbox, DataLossNamesTheMissingUnits) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
    NextUpdate(&outbox);
    ASSERT_TRUE(outbox.OnAck(Ack(i + 1, i)).ok());
  }
  const absl::Status status = outbox.OnWelcome(Welcome(2, 2));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("units 3 to 4"));
}

TEST(Outbox, NoticesAnotherProcessWithItsWorkerId) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  const absl::Status status = outbox.OnWelcome(Welcome(3, 0));
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_WORKER_FENCED) << status;
}

TEST(Outbox, RefusesImpossibleAcks) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(2, 1)).ok());
  EXPECT_TRUE(absl::IsInternal(outbox.OnAck(Ack(3, 1))));  // never sent
  EXPECT_TRUE(absl::IsInternal(outbox.OnAck(Ack(1, 1))));  // backwards
  EXPECT_TRUE(absl::IsInternal(outbox.OnAck(Ack(2, 0))));  // backwards
  EXPECT_TRUE(absl::IsInternal(outbox.OnWelcome(Welcome(2, 3))));
  EXPECT_TRUE(outbox.OnAck(Ack(2, 2)).ok());
}

TEST(Outbox, ARefusedLayerTakesNothingElseWithIt) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("good", Statistics(1, 10)).ok());
  ASSERT_TRUE(outbox.Add("bad", Statistics(1, 5)).ok());
  NextUpdate(&outbox);
  EXPECT_EQ(outbox.OnRefusal(Refusal(1, v1::ERROR_REASON_CHANNEL_COUNT_CHANGED, "bad")), RefusalMeaning::kDataRefused);
  EXPECT_TRUE(outbox.NextMessage(true) == nullptr);
  EXPECT_EQ(GetReason(outbox.refusal()), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(GetReason(outbox.Add("bad", Statistics(1))), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(GetReason(outbox.AddRaw("bad", {}, 1, Chunk({1}))), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);

  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  EXPECT_EQ(outbox.values_refused(), 5u);
  const auto registration = outbox.NextMessage(true);
  EXPECT_THAT(registration->register_layers().name(), ElementsAre("good"));
  const v1::Update update = NextUpdate(&outbox);
  EXPECT_EQ(update.first(), 1u);
  EXPECT_THAT(update.statistics().count(), ElementsAre(10));
}

TEST(Outbox, ARefusalThatNamesNoLayerDropsTheUpdateAlone) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 10)).ok());
  ASSERT_TRUE(outbox.Add("b", Statistics(1, 10)).ok());
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 7)).ok());
  NextUpdate(&outbox);
  EXPECT_EQ(outbox.OnRefusal(Refusal(1, v1::ERROR_REASON_LIMIT_EXCEEDED)), RefusalMeaning::kDataRefused);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  EXPECT_EQ(outbox.values_refused(), 20u);
  // What came behind the refused unit moves up.
  const v1::Update update = NextUpdate(&outbox);
  EXPECT_EQ(update.first(), 1u);
  EXPECT_THAT(update.statistics().count(), ElementsAre(7));
}

TEST(Outbox, ARefusedNameTakesNothingElseWithIt) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("bad", Statistics(1)).ok());
  ASSERT_TRUE(outbox.Add("good", Statistics(1)).ok());
  outbox.NextMessage(true);
  EXPECT_EQ(outbox.OnRefusal(Refusal(0, v1::ERROR_REASON_LAYER_NAME_INVALID, "bad")), RefusalMeaning::kDataRefused);
  EXPECT_EQ(outbox.values_refused(), 1u);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  EXPECT_THAT(outbox.NextMessage(true)->register_layers().name(), ElementsAre("good"));
  EXPECT_THAT(NextUpdate(&outbox).statistics().layer(), ElementsAre(0));
}

TEST(Outbox, SaysWhichRefusalsEndTheWorkerAndWhichLoseNothing) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1, 10)).ok());
  NextUpdate(&outbox);
  for (const auto reason : {v1::ERROR_REASON_SESSION_SEALED, v1::ERROR_REASON_SESSION_DELETED}) {
    EXPECT_EQ(outbox.OnRefusal(Refusal(1, reason)), RefusalMeaning::kWorkerEnds);
  }
  EXPECT_EQ(outbox.OnRefusal(Refusal(9, v1::ERROR_REASON_TENSOR_INVALID)), RefusalMeaning::kWorkerEnds);
  EXPECT_EQ(outbox.OnRefusal(Refusal(0, v1::ERROR_REASON_LIMIT_EXCEEDED)), RefusalMeaning::kWorkerEnds);
  for (const auto reason : {v1::ERROR_REASON_STORE_FAILED, v1::ERROR_REASON_SEQUENCE_GAP}) {
    EXPECT_EQ(outbox.OnRefusal(Refusal(1, reason)), RefusalMeaning::kTryAgain);
    ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
    EXPECT_THAT(NextUpdate(&outbox).statistics().count(), ElementsAre(10));
  }
  EXPECT_TRUE(outbox.refusal().ok());
}

TEST(Outbox, ChecksNamesChannelCountsAndCounts) {
  Outbox outbox(4);
  EXPECT_EQ(GetReason(outbox.Add("", Statistics(1))), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(GetReason(outbox.Add("\xff", Statistics(1))), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(GetReason(outbox.Add(std::string(513, 'x'), Statistics(1))), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_TRUE(outbox.Add(std::string(512, 'x'), Statistics(1)).ok());
  EXPECT_TRUE(outbox.AddRaw("a", {}, 2, Chunk({1, 2})).ok());
  EXPECT_EQ(GetReason(outbox.AddRaw("a", {}, 3, Chunk({1, 2, 3}))), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_TRUE(outbox.Add("b", Statistics(1, ~uint64_t{0} - 1)).ok());
  EXPECT_EQ(GetReason(outbox.Add("b", Statistics(1, 2))), v1::ERROR_REASON_COUNT_OVERFLOW);
  EXPECT_TRUE(outbox.Add("b", Statistics(1, 1)).ok());
}

TEST(Outbox, MemoryIsBoundedWhileNothingBecomesDurable) {
  constexpr int kRounds = 3;
  Outbox outbox(kRounds);
  ModelServer server;
  size_t pending = 0;  // one copy of the session's statistics
  uint64_t applied = 0;
  for (int i = 0; i < 1000; ++i) {
    // The worst case for rounds: the server takes a message here and there, and breaks the stream.
    if (i % 10 == 0) {
      ASSERT_TRUE(outbox.OnWelcome(server.Open()).ok());
    }
    for (const char* const layer : {"a", "b", "c"}) ASSERT_TRUE(outbox.Add(layer, Statistics(1 << (i % 10))).ok());
    if (i == 9) pending = outbox.TotalBytes();
    const auto message = outbox.NextMessage(true);
    if (message != nullptr && i % 10 < 3) applied = server.Take(*message).ack().applied();
    if (i > 10) {
      ASSERT_LE(outbox.TotalBytes(), (kRounds + 2) * pending);
    }
  }
  EXPECT_GT(applied, 0u);
  EXPECT_EQ(outbox.durable(), 0u);
}

TEST(Outbox, RoundsWaitForTheirTurn) {
  Outbox outbox(2);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  while (const auto message = outbox.NextMessage(/*statistics_due=*/false)) ASSERT_FALSE(message->has_update());
  EXPECT_EQ(NextUpdate(&outbox).first(), 1u);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  EXPECT_EQ(NextUpdate(&outbox).first(), 2u);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  EXPECT_FALSE(outbox.HasRoundWaiting());
  EXPECT_TRUE(outbox.NextMessage(true) == nullptr);
  ASSERT_TRUE(outbox.OnAck(Ack(2, 0)).ok());
  EXPECT_TRUE(outbox.NextMessage(true) == nullptr);
  ASSERT_TRUE(outbox.OnAck(Ack(2, 1)).ok());
  EXPECT_TRUE(outbox.HasRoundWaiting());
  EXPECT_EQ(NextUpdate(&outbox).first(), 3u);
}

TEST(Outbox, WaitsForDurabilityWhenAllThatMayBeSentIsApplied) {
  Outbox outbox(2);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  for (const uint64_t unit : {1, 2}) {
    ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
    EXPECT_FALSE(outbox.WaitsForDurability(true)) << "a round waits";
    NextUpdate(&outbox);
    EXPECT_FALSE(outbox.WaitsForDurability(true)) << "it is not applied";
    ASSERT_TRUE(outbox.OnAck(Ack(unit, 0)).ok());
    EXPECT_TRUE(outbox.WaitsForDurability(true));
  }
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  const uint64_t mark = outbox.Mark();
  EXPECT_FALSE(outbox.IsApplied(mark));
  EXPECT_TRUE(outbox.WaitsForDurability(true)) << "no third round may be in flight";
  ASSERT_TRUE(outbox.AddRaw("b", {}, 1, Chunk({1})).ok());
  EXPECT_FALSE(outbox.WaitsForDurability(true)) << "a chunk may be sent";
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.OnAck(Ack(3, 0)).ok());
  EXPECT_TRUE(outbox.WaitsForDurability(true));
  ASSERT_TRUE(outbox.OnAck(Ack(3, 1)).ok());
  EXPECT_FALSE(outbox.WaitsForDurability(true)) << "the third round may be sent";
  EXPECT_TRUE(outbox.WaitsForDurability(false)) << "but it is not due";
  ASSERT_TRUE(outbox.OnAck(Ack(3, 3)).ok());
  EXPECT_FALSE(outbox.WaitsForDurability(false)) << "all that was sent is durable";
}

TEST(Outbox, MarksTellWhenEverythingBeforeThemIsAppliedAndDurable) {
  Outbox outbox(4);
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  const uint64_t mark = outbox.Mark();
  EXPECT_FALSE(outbox.IsApplied(mark));
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.Add("a", Statistics(1)).ok());
  EXPECT_FALSE(outbox.IsApplied(mark));
  ASSERT_TRUE(outbox.OnAck(Ack(1, 0)).ok());
  EXPECT_TRUE(outbox.IsApplied(mark));
  EXPECT_FALSE(outbox.IsDurable(mark));
  // The server forgets: what was before the mark is pending again, merged with what came after.
  ASSERT_TRUE(outbox.OnWelcome(Welcome(0, 0)).ok());
  EXPECT_FALSE(outbox.IsApplied(mark));
  NextUpdate(&outbox);
  ASSERT_TRUE(outbox.OnAck(Ack(1, 1)).ok());
  EXPECT_TRUE(outbox.IsApplied(mark));
  EXPECT_TRUE(outbox.IsDurable(mark));
}

}  // namespace
}  // namespace calib::client
