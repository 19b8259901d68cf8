#include <gmock/gmock.h>
#include <grpc/compression.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/base/thread_pool.h"
#include "server/rpc/calibration_service.h"
#include "server/store/memory_store.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::HasSubstr;

test::InProcessServerOptions FewCalls() {
  test::InProcessServerOptions options;
  options.grpc.max_read_bytes = 1;  // every message stops further reading until it is processed
  options.grpc.max_streams_per_connection = 4;
  return options;
}

class LimitsTest : public RpcTest {
 protected:
  LimitsTest() : RpcTest(FewCalls()) {}
};

TEST_F(LimitsTest, AStreamMessageOverTheLimitIsRefusedClearly) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  client.Write(RangeMessage(1, 1, 0, 1, 0, 1));
  client.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  v1::ObserveRequest large = RawMessage(2, 2, 0, {});
  large.mutable_update()->mutable_tensor()->set_data(std::string(5 << 20, 'x'));
  client.Write(large);
  const grpc::Status status = client.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("4194304"));
  EXPECT_TRUE(Eventually([this] { return server_.engine().counters().streams == 0; }));

  ObserveClient again(stub_.get());
  EXPECT_EQ(again.Open("s", "w1").applied(), 1u) << "what was applied stays";
}

TEST_F(LimitsTest, AUnaryMessageOverTheLimitIsRefusedClearly) {
  v1::GetSessionRequest request;
  request.set_page_token(std::string(5 << 20, 'x'));
  v1::GetSessionResponse response;
  const grpc::Status status = Call(stub_.get(), &Stub::GetSession, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("4194304"));
}

TEST_F(LimitsTest, CompressedMessagesAreRefused) {
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    context->set_compression_algorithm(algorithm);
    v1::GetSessionRequest request;
    request.set_session(std::string(100'000, 's'));
    v1::GetSessionResponse response;
    const grpc::Status status = stub_->GetSession(context.get(), request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << status.error_message();
  }
}

TEST_F(LimitsTest, ATinyReadBudgetSlowsStreamsDownWithoutStoppingThem) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      const std::unique_ptr<Stub> stub = NewStub();
      ObserveClient client(stub.get());
      client.Open("s", absl::StrCat("w", t));
      client.Write(RegisterMessage(0, {"range/a"}));
      for (uint64_t i = 1; i <= 200; ++i) client.Write(RawMessage(i, i, 0, std::vector<float>(1000, 1.0f)));
      client.WritesDone();
      v1::Ack ack;
      EXPECT_TRUE(client.Finish(&ack).ok());
      EXPECT_EQ(ack.durable(), 200u);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LimitsTest, CallsPastTheConnectionsLimitWait) {
  std::vector<std::unique_ptr<ObserveClient>> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(std::make_unique<ObserveClient>(stub_.get()));
    open.back()->Open("s", absl::StrCat("w", i));
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  v1::ListSessionsResponse response;
  EXPECT_EQ(stub_->ListSessions(&context, {}, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  open.pop_back();
  EXPECT_TRUE(Call(stub_.get(), &Stub::ListSessions, {}, &response).ok());
}

// A service over pools that the test can hold still.
class HeldServerTest : public ::testing::Test {
 protected:
  HeldServerTest() {
    engine_ = *Engine::Create(EngineOptions(), std::make_unique<MemoryStore>());
    CalibrationService::Options options;
    options.ingest_pool = &ingest_pool_;
    options.query_pool = &query_pool_;
    options.max_read_bytes = 256 << 20;
    options.max_calls = 3;
    options.max_answer_bytes = 4 << 20;
    service_ = std::make_unique<CalibrationService>(engine_.get(), options);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = v1::Calibration::NewStub(
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials()));
    (void)*engine_->CreateSession("s", SessionConfig());
  }
  ~HeldServerTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  // Keeps a pool's one thread busy until the Hold ends.
  class Hold {
   public:
    explicit Hold(ThreadPool* pool) {
      pool->Schedule([this] {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return released_; });
        done_ = true;
        changed_.notify_all();
      });
    }
    ~Hold() { Release(); }
    void Release() {
      std::unique_lock<std::mutex> lock(mutex_);
      released_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return done_; });
    }

   private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool released_ = false;
    bool done_ = false;
  };

  ThreadPool ingest_pool_{1};
  ThreadPool query_pool_{1};
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<CalibrationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Stub> stub_;
};

TEST_F(HeldServerTest, AServerThatDoesNotProcessStopsTheClientsWrites) {
  constexpr int kMessages = 64;
  const std::vector<float> mebibyte(1 << 18, 1.0f);
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"a"}));
  Hold hold(&ingest_pool_);

  std::mutex mutex;
  std::condition_variable changed;
  int written = 0;
  std::thread writer([&] {
    for (uint64_t i = 1; i <= kMessages; ++i) {
      ASSERT_TRUE(client.Write(RawMessage(i, i, 0, mebibyte)));
      std::lock_guard<std::mutex> lock(mutex);
      ++written;
      changed.notify_all();
    }
    client.WritesDone();
  });
  {
    std::unique_lock<std::mutex> lock(mutex);
    EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return written >= 2; }));
    for (int seen = -1; seen != written;) {
      seen = written;
      changed.wait_for(lock, std::chrono::seconds(1), [&] { return written != seen; });
    }
    EXPECT_LT(written, 20) << "two messages in the server, the rest in flow control's windows";
  }
  hold.Release();
  v1::Ack ack;
  EXPECT_TRUE(client.Finish(&ack).ok());
  writer.join();
  EXPECT_EQ(ack.applied(), uint64_t{kMessages});
}

TEST_F(HeldServerTest, CallsPastTheLimitAreRefused) {
  constexpr int kCalls = 4;  // one more than allowed; which is refused is open, since they race
  Hold hold(&query_pool_);
  grpc::ClientContext contexts[kCalls];
  v1::ListSessionsResponse responses[kCalls];
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<grpc::Status> answers;
  const v1::ListSessionsRequest request;
  for (int i = 0; i < kCalls; ++i) {
    stub_->async()->ListSessions(&contexts[i], &request, &responses[i], [&](grpc::Status status) {
      std::lock_guard<std::mutex> lock(mutex);
      answers.push_back(std::move(status));
      changed.notify_all();
    });
  }
  const auto wait_for = [&](size_t count) {
    std::unique_lock<std::mutex> lock(mutex);
    return changed.wait_for(lock, std::chrono::minutes(1), [&] { return answers.size() == count; });
  };
  ASSERT_TRUE(wait_for(1));
  EXPECT_REASON(answers[0], LIMIT_EXCEEDED, RESOURCE_EXHAUSTED);
  EXPECT_THAT(answers[0].error_message(), HasSubstr("--max-calls"));
  hold.Release();
  ASSERT_TRUE(wait_for(kCalls));
  for (int i = 1; i < kCalls; ++i) EXPECT_TRUE(answers[i].ok()) << answers[i].error_message();
}

TEST_F(HeldServerTest, ACallWhoseCallerGaveUpDoesNotRun) {
  Hold hold(&query_pool_);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  v1::CreateSessionRequest request;
  request.set_session("late");
  v1::CreateSessionResponse response;
  EXPECT_EQ(stub_->CreateSession(&context, request, &response).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The server hears of it by its own deadline or a reset, whichever comes first; a call on the same connection comes
  // after the reset.
  grpc::ClientContext probe;
  probe.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  v1::ListSessionsResponse listed;
  EXPECT_EQ(stub_->ListSessions(&probe, {}, &listed).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  hold.Release();
  EXPECT_TRUE(Call(stub_.get(), &Stub::ListSessions, {}, &listed).ok());
  EXPECT_EQ(listed.session_size(), 1) << "only s";
}

}  // namespace
}  // namespace calib::server
