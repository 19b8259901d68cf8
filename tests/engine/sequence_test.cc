// Exactly once: sequence ranges, fencing, and what a restart leaves.

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

const LayerStatistics& One() {
  static const LayerStatistics* const statistics = new LayerStatistics(Observe(kMinMaxConfig, {1.0f}));
  return *statistics;
}

v1::ObserveRequest Units(uint64_t first, uint64_t last) { return StatisticsRequest(first, last, {{1, One()}}); }

constexpr uint64_t kGreatest = ~uint64_t{0};

struct SequenceCase {
  std::string name;
  std::vector<std::pair<uint64_t, uint64_t>> before;
  uint64_t first;
  uint64_t last;
  v1::ErrorReason refused;  // UNSPECIFIED: taken
  uint64_t applied;         // after it
  uint64_t updates;         // applied after it
};

class SequenceTest : public EngineFixture, public ::testing::WithParamInterface<SequenceCase> {};

TEST_P(SequenceTest, AppliesExactlyTheNextRange) {
  const SequenceCase& sequence = GetParam();
  Start();
  const auto session = CreateSession();
  TestStream stream = Open();
  for (const auto& [first, last] : sequence.before) ASSERT_TRUE(stream.Send(Units(first, last)).ok());
  const std::string before = Describe(*session);

  const v1::ObserveRequest request = Units(sequence.first, sequence.last);
  const absl::Status status = stream.Send(request);
  EXPECT_EQ(GetReason(status), sequence.refused) << status;
  EXPECT_EQ(status.ok(), sequence.refused == v1::ERROR_REASON_UNSPECIFIED) << status;
  EXPECT_FALSE(ObserveStream::EndsStream(status));
  EXPECT_EQ(stream.stream->ack().applied(), sequence.applied);
  EXPECT_EQ(session->GetSummary().record.updates_applied, sequence.updates);
  EXPECT_EQ(session->GetSummary().values, sequence.updates);
  if (sequence.updates == sequence.before.size()) {
    EXPECT_EQ(Describe(*session), before);
  }
  if (status.ok()) return;
  const v1::Refusal refusal = stream.stream->MakeRefusal(request, status);
  EXPECT_EQ(refusal.first(), sequence.first);
  EXPECT_EQ(refusal.last(), sequence.last);
  EXPECT_EQ(refusal.applied(), sequence.applied);
  EXPECT_EQ(refusal.code(), static_cast<int>(status.code()));
  EXPECT_EQ(refusal.info().reason(), ReasonName(sequence.refused));
  EXPECT_FALSE(refusal.message().empty());
  if (sequence.refused != v1::ERROR_REASON_INVALID_FIELD) {
    EXPECT_EQ(refusal.info().metadata().at("expected"), std::to_string(sequence.applied + 1));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, SequenceTest,
    ::testing::Values(SequenceCase{"First", {}, 1, 1, v1::ERROR_REASON_UNSPECIFIED, 1, 1},
                      SequenceCase{"FirstMerged", {}, 1, 7, v1::ERROR_REASON_UNSPECIFIED, 7, 1},
                      SequenceCase{"Next", {{1, 1}}, 2, 2, v1::ERROR_REASON_UNSPECIFIED, 2, 2},
                      SequenceCase{"NextMerged", {{1, 3}}, 4, 9, v1::ERROR_REASON_UNSPECIFIED, 9, 2},
                      SequenceCase{"Repeated", {{1, 1}, {2, 2}}, 2, 2, v1::ERROR_REASON_UNSPECIFIED, 2, 2},
                      SequenceCase{"RepeatedEarlier", {{1, 1}, {2, 2}}, 1, 1, v1::ERROR_REASON_UNSPECIFIED, 2, 2},
                      SequenceCase{"RepeatedMerged", {{1, 1}, {2, 2}}, 1, 2, v1::ERROR_REASON_UNSPECIFIED, 2, 2},
                      SequenceCase{"RepeatedPartOfMerged", {{1, 5}}, 2, 3, v1::ERROR_REASON_UNSPECIFIED, 5, 1},
                      SequenceCase{"GapAtStart", {}, 2, 2, v1::ERROR_REASON_SEQUENCE_GAP, 0, 0},
                      SequenceCase{"Gap", {{1, 1}}, 3, 3, v1::ERROR_REASON_SEQUENCE_GAP, 1, 1},
                      SequenceCase{"GapMerged", {{1, 4}}, 6, 9, v1::ERROR_REASON_SEQUENCE_GAP, 4, 1},
                      SequenceCase{"Overlap", {{1, 4}}, 4, 5, v1::ERROR_REASON_SEQUENCE_OVERLAP, 4, 1},
                      SequenceCase{"OverlapFromStart", {{1, 4}}, 1, 5, v1::ERROR_REASON_SEQUENCE_OVERLAP, 4, 1},
                      SequenceCase{"FirstIsZero", {{1, 1}}, 0, 2, v1::ERROR_REASON_INVALID_FIELD, 1, 1},
                      SequenceCase{"FirstIsZeroRepeated", {{1, 1}}, 0, 1, v1::ERROR_REASON_INVALID_FIELD, 1, 1},
                      SequenceCase{"BothZero", {}, 0, 0, v1::ERROR_REASON_INVALID_FIELD, 0, 0},
                      SequenceCase{"LastBeforeFirst", {{1, 1}}, 2, 1, v1::ERROR_REASON_INVALID_FIELD, 1, 1},
                      SequenceCase{"GreatestNumber", {}, 1, kGreatest, v1::ERROR_REASON_UNSPECIFIED, kGreatest, 1},
                      SequenceCase{
                          "AfterGreatest", {{1, kGreatest}}, 1, 1, v1::ERROR_REASON_UNSPECIFIED, kGreatest, 1}),
    [](const auto& info) { return info.param.name; });

class FencingTest : public EngineFixture {};

TEST_F(FencingTest, WorkersAreIndependent) {
  Start();
  const auto session = CreateSession();
  TestStream a = Open("a"), b = Open("b");
  EXPECT_TRUE(a.Send(Units(1, 3)).ok());
  EXPECT_TRUE(b.Send(Units(1, 1)).ok());
  EXPECT_TRUE(a.Send(Units(4, 4)).ok());
  EXPECT_EQ(a.stream->ack().applied(), 4u);
  EXPECT_EQ(b.stream->ack().applied(), 1u);
  EXPECT_EQ(session->GetLayer("minmax")->workers, 2u);
}

// A message of the old stream that the server reads after it told the new one `applied`: the client has merged it into
// another one by then, so it must not count.
TEST_F(FencingTest, OldStreamCannotApplyAfterTheNewWelcome) {
  Start();
  const auto session = CreateSession();
  TestStream old = Open();
  ASSERT_TRUE(old.Send(Units(1, 1)).ok());
  TestStream fresh = Open();
  EXPECT_EQ(fresh.stream->welcome().applied(), 1u);
  EXPECT_GT(fresh.stream->welcome().incarnation(), old.stream->welcome().incarnation());
  EXPECT_EQ(GetReason(old.listener->end_status()), v1::ERROR_REASON_WORKER_FENCED);

  const std::string before = Describe(*session);
  const absl::Status late = old.Send(Units(2, 2));
  EXPECT_EQ(GetReason(late), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_TRUE(ObserveStream::EndsStream(late));
  const absl::Status late_chunk = old.Send(TensorRequest(2, 2, 0, {1, 2}, {2}));
  EXPECT_EQ(GetReason(late_chunk), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_EQ(GetReason(old.Send(Units(1, 1))), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_EQ(Describe(*session), before);

  EXPECT_TRUE(fresh.Send(Units(2, 3)).ok());
  EXPECT_EQ(session->GetSummary().values, 2u);
}

TEST_F(FencingTest, ClosingTheOldStreamLeavesTheNewOneAlone) {
  Start();
  const auto session = CreateSession();
  TestStream old = Open();
  TestStream fresh = Open();
  old.stream->Close();
  old.stream->Close();
  EXPECT_TRUE(session->GetWorkers().at(0).connected);
  ASSERT_TRUE(fresh.Send(Units(1, 1)).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  EXPECT_EQ(fresh.listener->durable_calls(), 1);
  EXPECT_EQ(old.listener->durable_calls(), 0);
  fresh.stream->Close();
  EXPECT_FALSE(session->GetWorkers().at(0).connected);
}

TEST_F(FencingTest, RestartKeepsWhatIsDurableAndForgetsTheRest) {
  Start();
  CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(Units(1, 2)).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  const std::string durable = Describe(**engine_->FindSession("s"));
  ASSERT_TRUE(stream.Send(Units(3, 3)).ok());
  const uint64_t epoch = stream.stream->welcome().server_epoch();
  stream.stream->Close();

  Start();
  EXPECT_EQ(Describe(**engine_->FindSession("s")), durable);
  TestStream again = Open();
  EXPECT_GT(again.stream->welcome().server_epoch(), epoch);
  EXPECT_EQ(again.stream->welcome().applied(), 2u);
  EXPECT_EQ(again.stream->welcome().durable(), 2u);
  EXPECT_EQ(GetReason(again.Send(Units(4, 4))), v1::ERROR_REASON_SEQUENCE_GAP);
  EXPECT_TRUE(again.Send(Units(3, 5)).ok());
}

TEST_F(FencingTest, SecondOpenAndEmptyMessageEndTheStream) {
  Start();
  CreateSession();
  TestStream stream = Open();
  v1::ObserveRequest open;
  open.mutable_open()->set_session("s");
  const absl::Status second = stream.Send(open);
  EXPECT_EQ(GetReason(second), v1::ERROR_REASON_STREAM_NOT_OPEN);
  EXPECT_TRUE(ObserveStream::EndsStream(second));
  EXPECT_EQ(GetReason(stream.Send({})), v1::ERROR_REASON_STREAM_NOT_OPEN);
}

}  // namespace
}  // namespace calib::server::test
