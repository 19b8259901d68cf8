#include <gmock/gmock.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;

test::InProcessServerOptions SmallLimits() {
  test::InProcessServerOptions options;
  options.engine.limits.max_layers = 6;
  options.engine.limits.max_channels = 4;
  return options;
}

// Each test sends one bad message, reads its refusal, and then shows that the stream lives on and nothing else changed.
class ObserveRefusalTest : public RpcTest {
 protected:
  ObserveRefusalTest() : RpcTest(SmallLimits()), client_(stub_.get()) {
    client_.Open("s", "w1");
    client_.Write(RegisterMessage(0, {"range/a", "histogram", "channels/c", "skip/s"}));
    client_.Write(RangeMessage(1, 1, 0, 10, -1, 1));
    v1::ObserveRequest channels = RawMessage(2, 2, 2, {1, 2, 3, 4});
    channels.mutable_update()->mutable_tensor()->clear_shape();
    channels.mutable_update()->mutable_tensor()->add_shape(2);
    channels.mutable_update()->mutable_tensor()->add_shape(2);
    client_.Write(channels);
    client_.ReadAck([](const v1::Ack& ack) { return ack.applied() == 2; });
  }

  void ExpectRefused(const v1::ObserveRequest& request, absl::string_view reason, absl::StatusCode code,
                     absl::string_view says) {
    client_.Write(request);
    const v1::Refusal refusal = client_.ReadRefusal();
    EXPECT_EQ(refusal.info().reason(), std::string(reason)) << refusal.message();
    EXPECT_EQ(refusal.info().domain(), "calibd");
    EXPECT_EQ(refusal.code(), static_cast<int>(code));
    EXPECT_THAT(refusal.message(), HasSubstr(std::string(says)));
    EXPECT_EQ(refusal.first(), request.update().first());
    EXPECT_EQ(refusal.last(), request.update().last());
    EXPECT_EQ(refusal.applied(), 2u);

    client_.Write(RangeMessage(3, 3, 0, 10, -1, 1));
    client_.WritesDone();
    v1::Ack ack;
    const grpc::Status status = client_.Finish(&ack);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(ack.applied(), 3u);
    EXPECT_EQ(server_.engine().counters().updates_applied, 3u);
    EXPECT_EQ(server_.engine().counters().refusals[ReasonOf(refusal.info())], 1u);
  }

  ObserveClient client_;
};

TEST_F(ObserveRefusalTest, SequenceGap) {
  ExpectRefused(RangeMessage(4, 4, 0, 1, 0, 1), "SEQUENCE_GAP", absl::StatusCode::kOutOfRange, "3");
}
TEST_F(ObserveRefusalTest, SequenceOverlap) {
  ExpectRefused(RangeMessage(2, 3, 0, 1, 0, 1), "SEQUENCE_OVERLAP", absl::StatusCode::kOutOfRange, "3");
}
TEST_F(ObserveRefusalTest, SequenceBackwards) {
  ExpectRefused(RangeMessage(4, 3, 0, 1, 0, 1), "INVALID_FIELD", absl::StatusCode::kInvalidArgument, "4");
}
TEST_F(ObserveRefusalTest, LayerNameEmpty) {
  ExpectRefused(RegisterMessage(4, {""}), "LAYER_NAME_INVALID", absl::StatusCode::kInvalidArgument, "empty");
}
TEST_F(ObserveRefusalTest, LayerNameTooLong) {
  ExpectRefused(RegisterMessage(4, {std::string(513, 'x')}), "LIMIT_EXCEEDED", absl::StatusCode::kResourceExhausted,
                "--max-layer-name-bytes");
}
TEST_F(ObserveRefusalTest, HandleUnknown) {
  ExpectRefused(RangeMessage(3, 3, 7, 1, 0, 1), "LAYER_HANDLE_UNKNOWN", absl::StatusCode::kInvalidArgument, "7");
}
TEST_F(ObserveRefusalTest, HandleOutOfOrder) {
  ExpectRefused(RegisterMessage(9, {"range/b"}), "LAYER_HANDLE_UNKNOWN", absl::StatusCode::kInvalidArgument, "9");
}
TEST_F(ObserveRefusalTest, LayerSkipped) {
  ExpectRefused(RangeMessage(3, 3, 3, 1, 0, 1), "LAYER_SKIPPED", absl::StatusCode::kInvalidArgument, "skip/s");
}
TEST_F(ObserveRefusalTest, HistogramForAMinMaxLayer) {
  v1::ObserveRequest request = RangeMessage(3, 3, 0, 1, 1, 1);
  request.mutable_update()->mutable_statistics()->add_histogram();
  ExpectRefused(request, "STATISTICS_INCONSISTENT", absl::StatusCode::kInvalidArgument, "histogram");
}
TEST_F(ObserveRefusalTest, NoHistogramForAHistogramLayer) {
  ExpectRefused(RangeMessage(3, 3, 1, 1, 1, 1), "STATISTICS_INCONSISTENT", absl::StatusCode::kInvalidArgument,
                "histogram");
}
TEST_F(ObserveRefusalTest, PageOfTheWrongLength) {
  v1::ObserveRequest request = RangeMessage(3, 3, 1, 128, 1, 1.9921875);
  v1::Bfloat16Histogram* const histogram = request.mutable_update()->mutable_statistics()->add_histogram();
  histogram->set_mantissa_bits(7);
  histogram->set_lossless(true);
  histogram->add_page(127);
  histogram->set_encoding(std::string(1, 1));
  histogram->set_counts(std::string(127, 1));
  ExpectRefused(request, "HISTOGRAM_INVALID", absl::StatusCode::kInvalidArgument, "127");
}
TEST_F(ObserveRefusalTest, ColumnsOfDifferentLengths) {
  v1::ObserveRequest request = RangeMessage(3, 3, 0, 1, 0, 1);
  request.mutable_update()->mutable_statistics()->add_min(0);
  ExpectRefused(request, "STATISTICS_INCONSISTENT", absl::StatusCode::kInvalidArgument, "min");
}
TEST_F(ObserveRefusalTest, MinAboveMax) {
  ExpectRefused(RangeMessage(3, 3, 0, 1, 2, 1), "STATISTICS_INCONSISTENT", absl::StatusCode::kInvalidArgument, "min");
}
TEST_F(ObserveRefusalTest, CountsThatOverflow) {
  ExpectRefused(RangeMessage(3, 3, 0, ~uint64_t{0}, -1, 1), "COUNT_OVERFLOW", absl::StatusCode::kOutOfRange, "range/a");
}
TEST_F(ObserveRefusalTest, TensorTruncated) {
  v1::ObserveRequest request = RawMessage(3, 3, 1, {1, 2});
  request.mutable_update()->mutable_tensor()->mutable_data()->pop_back();
  ExpectRefused(request, "TENSOR_INVALID", absl::StatusCode::kInvalidArgument, "7");
}
TEST_F(ObserveRefusalTest, TensorPastItsShape) {
  v1::ObserveRequest request = RawMessage(3, 3, 1, {1, 2});
  request.mutable_update()->mutable_tensor()->set_offset(1);
  ExpectRefused(request, "TENSOR_INVALID", absl::StatusCode::kInvalidArgument, "2");
}
TEST_F(ObserveRefusalTest, TensorOverOneMebibyte) {
  ExpectRefused(RawMessage(3, 3, 1, std::vector<float>((1 << 18) + 1)), "TENSOR_INVALID",
                absl::StatusCode::kInvalidArgument, "1048576");
}
TEST_F(ObserveRefusalTest, DataTypeUnknown) {
  v1::ObserveRequest request = RawMessage(3, 3, 1, {1});
  request.mutable_update()->mutable_tensor()->set_data_type(static_cast<v1::DataType>(77));
  ExpectRefused(request, "TENSOR_INVALID", absl::StatusCode::kInvalidArgument, "77");
}
TEST_F(ObserveRefusalTest, ChannelCountChanged) {
  v1::ObserveRequest request = RawMessage(3, 3, 2, {1, 2, 3});
  ExpectRefused(request, "CHANNEL_COUNT_CHANGED", absl::StatusCode::kFailedPrecondition, "channels/c");
}
TEST_F(ObserveRefusalTest, TooManyChannels) {
  client_.Write(RegisterMessage(4, {"channels/d"}));
  ExpectRefused(RawMessage(3, 3, 4, {1, 2, 3, 4, 5}), "LIMIT_EXCEEDED", absl::StatusCode::kResourceExhausted,
                "--max-channels");
}
TEST_F(ObserveRefusalTest, UpdateWithoutPayload) {
  v1::ObserveRequest request;
  request.mutable_update()->set_first(3);
  request.mutable_update()->set_last(3);
  ExpectRefused(request, "INVALID_FIELD", absl::StatusCode::kInvalidArgument, "");
}
TEST_F(ObserveRefusalTest, SealedSession) {
  v1::SealSessionRequest seal;
  seal.set_session("s");
  v1::SealSessionResponse sealed;
  ASSERT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::SealSession, seal, &sealed).ok());
  client_.Write(RangeMessage(3, 3, 0, 1, 0, 1));
  EXPECT_EQ(client_.ReadRefusal().info().reason(), "SESSION_SEALED");
  client_.WritesDone();
  EXPECT_TRUE(client_.Finish().ok());
}

TEST_F(ObserveRefusalTest, ThousandsOfRefusalsComeInOrder) {
  constexpr uint64_t kRefusals = 5000;
  std::thread reader([this] {
    for (uint64_t i = 0; i < kRefusals; ++i) ASSERT_EQ(client_.ReadRefusal().first(), 100 + i);
  });
  for (uint64_t i = 0; i < kRefusals; ++i) ASSERT_TRUE(client_.Write(RangeMessage(100 + i, 100 + i, 0, 1, 0, 1)));
  client_.WritesDone();
  reader.join();
  v1::Ack ack;
  EXPECT_TRUE(client_.Finish(&ack).ok());
  EXPECT_EQ(ack.applied(), 2u);
}

// Flow control stops a client that reads none of its refusals, instead of the server's memory filling up with them.
TEST_F(ObserveRefusalTest, RefusalsThatNobodyReadsStopTheClient) {
  constexpr uint64_t kMany = 5'000'000;
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t written = 0;
  std::thread writer([&] {
    while (client_.Write(RangeMessage(100, 100, 0, 1, 0, 1))) {
      std::lock_guard<std::mutex> lock(mutex);
      if (++written == kMany) return;
      changed.notify_all();
    }
  });
  {
    std::unique_lock<std::mutex> lock(mutex);
    for (uint64_t seen = ~uint64_t{0}; seen != written;) {
      seen = written;
      changed.wait_for(lock, std::chrono::seconds(1), [&] { return written != seen; });
    }
    EXPECT_LT(written, kMany);
  }
  client_.Cancel();
  writer.join();
  EXPECT_LT(server_.engine().counters().refusals[v1::ERROR_REASON_SEQUENCE_GAP], kMany);
}

}  // namespace
}  // namespace calib::server
