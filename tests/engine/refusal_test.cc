// A refused message changes nothing, says why, and the stream lives on.

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "proto/codec/statistics_codec.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

LayerStatistics Counted(uint64_t count) {
  LayerStatistics statistics = Observe(kMinMaxConfig, {1.0f});
  statistics.mutable_channels()[0].range.count = count;
  return statistics;
}

// Handles of the layers that depend on order or take no data, and the first one that is free.
constexpr uint32_t kEma = 4;
constexpr uint32_t kReference = 5;
constexpr uint32_t kPassive = 6;
constexpr uint32_t kNext = 7;

LayerStatistics Good() { return Observe(kHistogramConfig, {0.5f, -2.0f}); }
LayerStatistics GoodMinMax() { return Observe(kMinMaxConfig, {3.0f}); }

// An update of unit 2 whose first layer is good and whose second is changed by `spoil`.
v1::ObserveRequest Spoiled(uint32_t handle, const LayerStatistics& statistics,
                           const std::function<void(v1::StatisticsBatch*)>& spoil = {}) {
  v1::ObserveRequest request = StatisticsRequest(2, 2, {{0, Good()}, {handle, statistics}});
  if (spoil) spoil(request.mutable_update()->mutable_statistics());
  return request;
}

// The reference layer's state after the first update.
LayerStatistics ReferenceState() {
  LayerStatistics state(kReferenceConfig);
  state.FoldStep(MakeStep(state, {-1.0f, 0.5f}));
  return state;
}

// An update of unit 2 with a good layer and a step of the reference layer, changed by `spoil`.
v1::ObserveRequest SpoiledStep(const std::function<void(v1::StatisticsBatch*)>& spoil) {
  v1::ObserveRequest request = StatisticsRequest(2, 2, {{0, Good()}});
  v1::StatisticsBatch* const batch = request.mutable_update()->mutable_statistics();
  StatisticsWriter().AddStep(kReference, MakeStep(ReferenceState(), {0.25f, 0.75f}), true, batch);
  spoil(batch);
  return request;
}

v1::ObserveRequest Chunk(const std::function<void(v1::TensorChunk*)>& spoil) {
  v1::ObserveRequest request = TensorRequest(2, 2, 2, {1, 2, 3, 4, 5, 6}, {3, 2});
  spoil(request.mutable_update()->mutable_tensor());
  return request;
}

void PartOf(uint32_t layer, v1::TensorChunk* chunk) {
  chunk->set_layer(layer);
  chunk->set_shape(0, 4);
}

struct RefusalCase {
  std::string name;
  std::function<v1::ObserveRequest()> request;
  v1::ErrorReason reason;
  std::string option = "";  // that the refusal must name
};

// Writes the name instead of bytes.
void PrintTo(const RefusalCase& refusal, std::ostream* out) { *out << refusal.name; }

class RefusalTest : public EngineFixture, public ::testing::WithParamInterface<RefusalCase> {};

TEST_P(RefusalTest, ChangesNothing) {
  options_.limits.max_layers = 8;
  options_.limits.max_channels = 3;
  options_.limits.max_layer_name_bytes = 10;
  Start();
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(RegisterRequest(kEma, {"ema", "reference", "passive"})).ok());
  v1::ObserveRequest update = StatisticsRequest(1, 1,
                                                {{0, Good()},
                                                 {1, Counted(std::numeric_limits<uint64_t>::max() - 1)},
                                                 {2, Observe(kChannelsConfig, {1, 2, 3, 4, 5, 6}, {3, 2})}});
  StatisticsWriter().AddStep(kReference, MakeStep(LayerStatistics(kReferenceConfig), {-1.0f, 0.5f}), true,
                             update.mutable_update()->mutable_statistics());
  ASSERT_TRUE(stream.Send(update).ok());
  ASSERT_EQ(session->GetLayer("reference")->statistics.channels(), ReferenceState().channels());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  const std::string before = Describe(*session);
  const uint64_t bytes_before = session->GetSummary().state_bytes;
  const uint64_t version_before = session->GetSummary().version;

  const v1::ObserveRequest request = GetParam().request();
  const absl::Status status = stream.Send(request);
  EXPECT_EQ(GetReason(status), GetParam().reason) << status;
  EXPECT_FALSE(ObserveStream::EndsStream(status));
  EXPECT_EQ(status.code(), CodeOfReason(GetParam().reason));
  EXPECT_EQ(Describe(*session), before);
  EXPECT_EQ(session->GetSummary().state_bytes, bytes_before);
  EXPECT_EQ(session->GetSummary().version, version_before);
  EXPECT_EQ(engine_->counters().refusals[GetParam().reason], 1u);
  const v1::Refusal refusal = stream.stream->MakeRefusal(request, status);
  EXPECT_EQ(refusal.applied(), 1u);
  EXPECT_EQ(refusal.first(), request.update().first());
  if (!GetParam().option.empty()) {
    EXPECT_EQ(refusal.info().metadata().at("option"), GetParam().option);
    EXPECT_THAT(refusal.message(), ::testing::HasSubstr(GetParam().option));
  }

  // Nothing of it is left over either in the stream or in the session.
  EXPECT_TRUE(stream.Send(RegisterRequest(kNext, {"next"})).ok());
  EXPECT_TRUE(stream.Send(SpoiledStep([](v1::StatisticsBatch*) {})).ok());
  EXPECT_TRUE(stream.Send(StatisticsRequest(3, 3, {{0, Good()}, {kNext, Good()}})).ok());
  EXPECT_EQ(session->GetSummary().layer_count, 5u);
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusalTest,
    ::testing::Values(
        RefusalCase{"UnknownHandle", [] { return Spoiled(kNext, Good()); }, v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN},
        RefusalCase{"SkippedLayer", [] { return Spoiled(3, Good()); }, v1::ERROR_REASON_LAYER_SKIPPED},
        RefusalCase{"Gap",
                    [] {
                      return StatisticsRequest(3, 3, {{0, Good()}});
                    },
                    v1::ERROR_REASON_SEQUENCE_GAP},
        RefusalCase{"Overlap",
                    [] {
                      return StatisticsRequest(1, 2, {{0, Good()}});
                    },
                    v1::ERROR_REASON_SEQUENCE_OVERLAP},
        RefusalCase{"NoPayload",
                    [] {
                      v1::ObserveRequest request = StatisticsRequest(2, 2, {});
                      request.mutable_update()->clear_payload();
                      return request;
                    },
                    v1::ERROR_REASON_INVALID_FIELD},
        RefusalCase{"CountOverflow", [] { return Spoiled(1, Counted(5)); }, v1::ERROR_REASON_COUNT_OVERFLOW},
        RefusalCase{"ChannelCount",
                    [] {
                      return Spoiled(2, Observe(kChannelsConfig, {1, 2}, {2, 1}));
                    },
                    v1::ERROR_REASON_CHANNEL_COUNT_CHANGED},
        RefusalCase{"TooManyChannels",
                    [] {
                      return Spoiled(2, Observe(kChannelsConfig, {1, 2, 3, 4}, {4}));
                    },
                    v1::ERROR_REASON_LIMIT_EXCEEDED, "--max-channels"},
        RefusalCase{
            "ChannelsOfTensor",
            [] {
              return StatisticsRequest(2, 2, {{0, Observe(kChannelsConfig, {1, 2}, {2, 1})}, {1, GoodMinMax()}});
            },
            v1::ERROR_REASON_OBSERVER_MISMATCH},
        RefusalCase{"CoarserHistogram",
                    [] {
                      return StatisticsRequest(2, 2, {{0, Observe({.mantissa_bits = 4}, {1})}, {1, GoodMinMax()}});
                    },
                    v1::ERROR_REASON_OBSERVER_MISMATCH},
        RefusalCase{"HistogramMissing",
                    [] {
                      return StatisticsRequest(2, 2, {{0, GoodMinMax()}, {1, GoodMinMax()}});
                    },
                    v1::ERROR_REASON_STATISTICS_INCONSISTENT},
        RefusalCase{"HistogramLength",
                    [] {
                      return Spoiled(1, GoodMinMax(), [](v1::StatisticsBatch* b) {
                        b->mutable_histogram(0)->mutable_counts()->push_back(1);
                      });
                    },
                    v1::ERROR_REASON_HISTOGRAM_INVALID},
        RefusalCase{"MinAboveMax",
                    [] { return Spoiled(1, GoodMinMax(), [](v1::StatisticsBatch* b) { b->set_min(1, 9); }); },
                    v1::ERROR_REASON_STATISTICS_INCONSISTENT},
        RefusalCase{"ColumnLength",
                    [] { return Spoiled(1, GoodMinMax(), [](v1::StatisticsBatch* b) { b->add_count(1); }); },
                    v1::ERROR_REASON_STATISTICS_INCONSISTENT},
        RefusalCase{"ChunkOfUnknownHandle", [] { return Chunk([](v1::TensorChunk* c) { c->set_layer(kNext); }); },
                    v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN},
        RefusalCase{"ChunkOfSkippedLayer", [] { return Chunk([](v1::TensorChunk* c) { c->set_layer(3); }); },
                    v1::ERROR_REASON_LAYER_SKIPPED},
        RefusalCase{"ChunkDataType",
                    [] { return Chunk([](v1::TensorChunk* c) { c->set_data_type(v1::DATA_TYPE_UNSPECIFIED); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkTruncated", [] { return Chunk([](v1::TensorChunk* c) { c->mutable_data()->pop_back(); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkOutsideShape", [] { return Chunk([](v1::TensorChunk* c) { c->set_offset(1); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkOtherAxis", [] { return Chunk([](v1::TensorChunk* c) { c->set_channel_axis(1); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkAxisOutsideShape", [] { return Chunk([](v1::TensorChunk* c) { c->set_channel_axis(-3); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkAxisOfTensor",
                    [] {
                      return Chunk([](v1::TensorChunk* c) {
                        c->set_layer(0);
                        c->set_channel_axis(0);
                      });
                    },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkWithoutTheAxis", [] { return Chunk([](v1::TensorChunk* c) { c->clear_shape(); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkChannelCount",
                    [] { return Chunk([](v1::TensorChunk* c) { c->set_shape(0, 2), c->set_shape(1, 3); }); },
                    v1::ERROR_REASON_CHANNEL_COUNT_CHANGED},
        RefusalCase{"ChunkTooManyChannels",
                    [] { return Chunk([](v1::TensorChunk* c) { c->set_shape(0, uint64_t{1} << 40); }); },
                    v1::ERROR_REASON_LIMIT_EXCEEDED, "--max-channels"},
        RefusalCase{"ChunkIsAPartOfAnEmaStep", [] { return Chunk([](v1::TensorChunk* c) { PartOf(kEma, c); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkIsAPartOfAReferenceStep",
                    [] { return Chunk([](v1::TensorChunk* c) { PartOf(kReference, c); }); },
                    v1::ERROR_REASON_TENSOR_INVALID},
        RefusalCase{"ChunkOfTooLargeAStep", [] { return Chunk([](v1::TensorChunk* c) { c->set_layer(kReference); }); },
                    v1::ERROR_REASON_REFERENCE_TOO_LARGE},
        RefusalCase{"ChunkOfPassiveLayer", [] { return Chunk([](v1::TensorChunk* c) { c->set_layer(kPassive); }); },
                    v1::ERROR_REASON_OBSERVER_MISMATCH},
        RefusalCase{"PassiveLayer", [] { return Spoiled(kPassive, GoodMinMax()); }, v1::ERROR_REASON_OBSERVER_MISMATCH},
        RefusalCase{"ChannelsOfEma",
                    [] {
                      return Spoiled(kEma, Observe({ObserverKind::kMinMax, 0}, {1, 2}, {2}));
                    },
                    v1::ERROR_REASON_OBSERVER_MISMATCH},
        RefusalCase{
            "EmaColumn",
            [] { return Spoiled(kEma, GoodMinMax(), [](v1::StatisticsBatch* b) { b->add_ema()->set_steps(1); }); },
            v1::ERROR_REASON_STATISTICS_INCONSISTENT},
        RefusalCase{"StepWithoutCounts", [] { return Spoiled(kReference, GoodMinMax()); },
                    v1::ERROR_REASON_STATISTICS_INCONSISTENT},
        RefusalCase{
            "StepOnAnotherGrid",
            [] { return SpoiledStep([](v1::StatisticsBatch* b) { b->mutable_reference_histogram(0)->set_low(-2); }); },
            v1::ERROR_REASON_REFERENCE_GRID_MISMATCH},
        RefusalCase{"StepTooLarge", [] { return SpoiledStep([](v1::StatisticsBatch* b) { b->set_max(1, 100); }); },
                    v1::ERROR_REASON_REFERENCE_TOO_LARGE},
        RefusalCase{"StepCountsMoreThanItsValues",
                    [] {
                      return SpoiledStep(
                          [](v1::StatisticsBatch* b) { b->mutable_reference_histogram(0)->set_count(0, 3); });
                    },
                    v1::ERROR_REASON_HISTOGRAM_INVALID},
        RefusalCase{"StepCountsFractions",
                    [] {
                      return SpoiledStep(
                          [](v1::StatisticsBatch* b) { b->mutable_reference_histogram(0)->set_count(0, 0.5); });
                    },
                    v1::ERROR_REASON_HISTOGRAM_INVALID},
        RefusalCase{"StepOverflow",
                    [] {
                      return SpoiledStep(
                          [](v1::StatisticsBatch* b) { b->set_count(1, std::numeric_limits<uint64_t>::max()); });
                    },
                    v1::ERROR_REASON_COUNT_OVERFLOW},
        RefusalCase{"RegisterHandleTooLow", [] { return RegisterRequest(kNext - 1, {"a"}); },
                    v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN},
        RefusalCase{"RegisterHandleTooHigh", [] { return RegisterRequest(kNext + 1, {"a"}); },
                    v1::ERROR_REASON_LAYER_HANDLE_UNKNOWN},
        RefusalCase{"RegisterEmpty", [] { return RegisterRequest(kNext, {""}); }, v1::ERROR_REASON_LAYER_NAME_INVALID},
        RefusalCase{"RegisterNotUtf8", [] { return RegisterRequest(kNext, {"\xc3("}); },
                    v1::ERROR_REASON_LAYER_NAME_INVALID},
        RefusalCase{"RegisterTwice", [] { return RegisterRequest(kNext, {"h"}); }, v1::ERROR_REASON_INVALID_FIELD},
        RefusalCase{"RegisterTooLong", [] { return RegisterRequest(kNext, {"01234567890"}); },
                    v1::ERROR_REASON_LIMIT_EXCEEDED, "--max-layer-name-bytes"},
        RefusalCase{"RegisterTooMany",
                    [] {
                      return RegisterRequest(kNext, {"a", "b"});
                    },
                    v1::ERROR_REASON_LIMIT_EXCEEDED, "--max-layers"}),
    [](const auto& info) { return info.param.name; });

class LimitTest : public EngineFixture {
 protected:
  static std::string Option(const absl::Status& status) {
    if (GetReason(status) != v1::ERROR_REASON_LIMIT_EXCEEDED) return status.ToString();
    return GetErrorInfo(status)->metadata().at("option");
  }
  absl::Status TryOpen(const std::string& worker) {
    v1::Open open;
    open.set_session("s");
    open.set_worker_id(worker);
    return ObserveStream::Open(engine_.get(), open, std::make_shared<TestListener>()).status();
  }
};

TEST_F(LimitTest, RegistrationIsWhole) {
  Start();
  CreateSession();
  TestStream stream = Open();
  EXPECT_EQ(GetReason(stream.Send(RegisterRequest(4, {"a", ""}))), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(GetReason(stream.Send(RegisterRequest(4, {"a", "b", "a"}))), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_TRUE(stream.Send(RegisterRequest(4, {"a", "b"})).ok());
  EXPECT_TRUE(stream.Send(RegisterRequest(6, {"\xe5\xb1\xa4"})).ok());
  EXPECT_TRUE(stream.Send(StatisticsRequest(1, 1, {{6, Good()}})).ok());
}

// Streams may each name as many layers as a session may have: what counts is what is applied.
TEST_F(LimitTest, LayersOfASessionAreCountedWhenApplied) {
  options_.limits.max_layers = 5;
  Start();
  const auto session = CreateSession();
  TestStream a = Open("a"), b = Open("b");
  ASSERT_TRUE(a.Send(RegisterRequest(4, {"a"})).ok());
  ASSERT_TRUE(b.Send(RegisterRequest(4, {"b"})).ok());
  const LayerStatistics channels = Observe(kChannelsConfig, {1, 2}, {2});
  ASSERT_TRUE(a.Send(StatisticsRequest(1, 1, {{0, Good()}, {1, GoodMinMax()}, {2, channels}, {4, Good()}})).ok());
  ASSERT_TRUE(b.Send(StatisticsRequest(1, 1, {{0, Good()}, {4, Good()}})).ok());
  TestStream c = Open("c");
  ASSERT_TRUE(c.Send(RegisterRequest(4, {"c"})).ok());
  const std::string before = Describe(*session);
  EXPECT_EQ(Option(c.Send(StatisticsRequest(1, 1, {{0, Good()}, {4, Good()}}))), "--max-layers");
  EXPECT_EQ(Describe(*session), before);
  EXPECT_TRUE(c.Send(StatisticsRequest(1, 1, {{0, Good()}})).ok());
}

TEST_F(LimitTest, StateBytes) {
  options_.limits.max_state_bytes = 1;
  Start();
  const auto session = CreateSession();
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(StatisticsRequest(1, 1, {{0, Good()}})).ok());
  const std::string before = Describe(*session);
  EXPECT_EQ(Option(stream.Send(StatisticsRequest(2, 2, {{0, Good()}}))), "--max-state-bytes");
  EXPECT_EQ(Option(stream.Send(TensorRequest(2, 2, 0, {1}, {1}))), "--max-state-bytes");
  EXPECT_EQ(Describe(*session), before);
  ASSERT_TRUE(session->SetEnabled("*", false).ok());
  EXPECT_TRUE(stream.Send(StatisticsRequest(2, 2, {{0, Good()}})).ok());
}

TEST_F(LimitTest, SessionsWorkersStreamsAndToggles) {
  options_.limits.max_sessions = 1;
  options_.limits.max_workers = 2;
  options_.limits.max_streams = 3;
  options_.limits.max_toggles = 2;
  Start();
  const auto session = CreateSession();
  EXPECT_EQ(Option(engine_->CreateSession("t", TestConfig()).status()), "--max-sessions");
  EXPECT_TRUE(engine_->CreateSession("s", TestConfig()).ok());

  TestStream a = Open("a"), b = Open("b");
  EXPECT_EQ(Option(TryOpen("c")), "--max-workers");
  EXPECT_EQ(engine_->counters().streams, 2);
  TestStream again = Open("a");
  EXPECT_EQ(Option(TryOpen("b")), "--max-streams");
  EXPECT_TRUE(b.listener->end_status().ok());

  ASSERT_TRUE(session->SetEnabled("a*", false).ok());
  ASSERT_TRUE(session->SetEnabled("b*", false).ok());
  EXPECT_EQ(Option(session->SetEnabled("c*", false).status()), "--max-toggles");
  EXPECT_TRUE(session->SetEnabled("a*", true).ok());
  EXPECT_TRUE(session->SetEnabled("*", true).ok());
  EXPECT_EQ(session->GetSummary().record.toggles.size(), 1u);
}

}  // namespace
}  // namespace calib::server::test
