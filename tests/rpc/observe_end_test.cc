#include <gmock/gmock.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

test::InProcessServerOptions FewStreamsOnRequest() {
  test::InProcessServerOptions options;
  options.engine.checkpoint_interval = absl::InfiniteDuration();
  options.engine.limits.max_streams = 300;
  return options;
}

class ObserveEndTest : public RpcTest {
 protected:
  ObserveEndTest() : RpcTest(FewStreamsOnRequest()) {}
};

TEST_F(ObserveEndTest, TheFirstMessageMustBeOpenAndOpenMustBeFirst) {
  ObserveClient update(stub_.get());
  update.Write(RangeMessage(1, 1, 0, 1, 0, 1));
  EXPECT_REASON(update.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);

  ObserveClient empty(stub_.get());
  empty.Write(v1::ObserveRequest());
  EXPECT_REASON(empty.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);

  ObserveClient nothing(stub_.get());
  nothing.WritesDone();
  EXPECT_REASON(nothing.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);

  ObserveClient twice(stub_.get());
  twice.Open("s", "w1");
  twice.Write(OpenMessage("s", "w1"));
  EXPECT_REASON(twice.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);
}

class OpenTimeoutTest : public RpcTest {
 protected:
  OpenTimeoutTest() : RpcTest(Impatient()) {}
  static test::InProcessServerOptions Impatient() {
    test::InProcessServerOptions options;
    options.grpc.open_timeout = absl::Milliseconds(20);
    return options;
  }
};

TEST_F(OpenTimeoutTest, AStreamWithoutOpenEnds) {
  ObserveClient silent(stub_.get());
  EXPECT_REASON(silent.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);
}

TEST_F(OpenTimeoutTest, AnOpenStreamOutlivesIt) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  ObserveClient silent(stub_.get());
  EXPECT_REASON(silent.Finish(), STREAM_NOT_OPEN, FAILED_PRECONDITION);
  client.WritesDone();
  EXPECT_TRUE(client.Finish().ok());
}

TEST_F(ObserveEndTest, OpenRefusesWhatItCannotOpen) {
  ObserveClient unknown(stub_.get());
  unknown.Write(OpenMessage("nowhere", "w1"));
  EXPECT_REASON(unknown.Finish(), SESSION_NOT_FOUND, NOT_FOUND);
  ObserveClient malformed(stub_.get());
  malformed.Write(OpenMessage("s", "not a worker id"));
  EXPECT_REASON(malformed.Finish(), INVALID_FIELD, INVALID_ARGUMENT);
}

TEST_F(ObserveEndTest, HalfCloseMakesEverythingDurableFirst) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  for (uint64_t i = 1; i <= 100; ++i) client.Write(RangeMessage(i, i, 0, 1, 0, 1));
  client.WritesDone();
  v1::Ack ack;
  EXPECT_TRUE(client.Finish(&ack).ok());
  EXPECT_EQ(ack.applied(), 100u);
  EXPECT_EQ(ack.durable(), 100u) << "although there are no periodic checkpoints";
}

TEST_F(ObserveEndTest, ANewerStreamOfAWorkerFencesTheOlder) {
  ObserveClient older(stub_.get());
  older.Open("s", "w1");
  older.Write(RegisterMessage(0, {"range/a"}));
  older.Write(RangeMessage(1, 1, 0, 1, 0, 1));
  older.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  const std::unique_ptr<v1::Calibration::Stub> other = NewStub();
  ObserveClient newer(other.get());
  EXPECT_EQ(newer.Open("s", "w1").applied(), 1u);
  EXPECT_REASON(older.Finish(), WORKER_FENCED, ABORTED);
  newer.Write(RegisterMessage(0, {"range/a"}));
  newer.Write(RangeMessage(2, 2, 0, 1, 0, 1));
  newer.WritesDone();
  EXPECT_TRUE(newer.Finish().ok());
}

TEST_F(ObserveEndTest, DeletingTheSessionEndsItsStreams) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  v1::DeleteSessionRequest request;
  request.set_session("s");
  v1::DeleteSessionResponse response;
  ASSERT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::DeleteSession, request, &response).ok());
  EXPECT_REASON(client.Finish(), SESSION_DELETED, NOT_FOUND);
}

TEST_F(ObserveEndTest, DrainEndsStreamsAfterALastAck) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  client.Write(RangeMessage(1, 1, 0, 1, 0, 1));
  client.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(30)) << "nothing was left to cancel";
  v1::Ack ack;
  EXPECT_REASON(client.Finish(&ack), SERVER_DRAINING, UNAVAILABLE);
  EXPECT_EQ(ack.durable(), 1u);
  EXPECT_EQ(server_.engine().counters().streams, 0);
}

TEST_F(ObserveEndTest, StopDoesNotWaitForClientsThatDoNotRead) {
  ObserveClient silent(stub_.get());  // never sends Open
  ObserveClient stuck(stub_.get());   // sends what is refused, and never reads
  stuck.Write(OpenMessage("s", "w1"));
  std::thread writer([&stuck] {
    // Until flow control stops it, and then the server ends.
    while (stuck.Write(RangeMessage(100, 100, 0, 1, 0, 1))) {
    }
  });
  EXPECT_TRUE(Eventually([&] { return server_.engine().counters().refusals[v1::ERROR_REASON_SEQUENCE_GAP] > 100; }));
  EXPECT_TRUE(server_.Stop(absl::Milliseconds(200)).ok());
  writer.join();
  EXPECT_EQ(server_.engine().counters().streams, 0);
}

TEST_F(ObserveEndTest, StreamsCancelledAtAnyPointLeaveNothingBehind) {
  constexpr int kThreads = 4;
  constexpr int kStreams = 100;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      const std::unique_ptr<v1::Calibration::Stub> stub = NewStub();
      for (int i = 0; i < kStreams; ++i) {
        ObserveClient client(stub.get());
        const std::string worker = absl::StrCat("w", t, "-", i);
        const int step = (i * 7 + t) % 10;
        if (step > 0) client.Write(OpenMessage("s", worker));
        if (step > 1) client.Write(RegisterMessage(0, {"range/a", "b"}));
        for (int u = 1; u < step; ++u) client.Write(RawMessage(u, u, u % 2, std::vector<float>(1000, 1.0f)));
        if (step > 5) client.Read();
        if (step > 8) client.WritesDone();
        client.Cancel();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([this] { return server_.engine().counters().streams == 0; }));
  EXPECT_TRUE(server_.Stop(absl::Minutes(1)).ok());
}

TEST_F(ObserveEndTest, StreamsPastTheLimitAreRefused) {
  std::vector<std::unique_ptr<ObserveClient>> clients;
  for (int i = 0; i < 300; ++i) {
    clients.push_back(std::make_unique<ObserveClient>(stub_.get()));
    clients.back()->Open("s", absl::StrCat("w", i));
  }
  ObserveClient late(stub_.get());
  late.Write(OpenMessage("s", "late"));
  const grpc::Status status = late.Finish();
  EXPECT_REASON(status, LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), ::testing::HasSubstr("--max-streams"));
}

}  // namespace
}  // namespace calib::server
