#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "server/base/listen_address.h"
#include "server/rpc/method.h"
#include "server/store/memory_store.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;

// grpc.health.v1.Health/Check by hand: field 1 of the request is the service, of the response the status. -1: the call
// failed.
int Health(const std::string& address, const std::string& service) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  std::string bytes;
  if (!service.empty()) bytes = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  const std::unique_ptr<grpc::ClientContext> context = TestContext();
  const auto call = stub.PrepareUnaryCall(context.get(), "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  if (!queue.Next(&tag, &ok) || !status.ok()) return -1;
  grpc::Slice answer;
  if (!response.TrySingleSlice(&answer).ok() || answer.size() != 2 || answer.begin()[0] != 8) return -1;
  return answer.begin()[1];
}
constexpr int kServing = 1;
constexpr int kNotServing = 2;

TEST(MethodTest, NumbersAreTheDescriptors) {
  const google::protobuf::ServiceDescriptor* const service =
      v1::GetSessionRequest::descriptor()->file()->FindServiceByName("Calibration");
  const auto index = [service](const char* name) {
    return static_cast<size_t>(service->FindMethodByName(name)->index());
  };
  EXPECT_EQ(static_cast<size_t>(Method::kCreateSession), index("CreateSession"));
  EXPECT_EQ(static_cast<size_t>(Method::kGetSession), index("GetSession"));
  EXPECT_EQ(static_cast<size_t>(Method::kListSessions), index("ListSessions"));
  EXPECT_EQ(static_cast<size_t>(Method::kSealSession), index("SealSession"));
  EXPECT_EQ(static_cast<size_t>(Method::kDeleteSession), index("DeleteSession"));
  EXPECT_EQ(static_cast<size_t>(Method::kSetObserversEnabled), index("SetObserversEnabled"));
  EXPECT_EQ(static_cast<size_t>(Method::kObserve), index("Observe"));
  EXPECT_EQ(static_cast<size_t>(Method::kFlush), index("Flush"));
  EXPECT_EQ(static_cast<size_t>(Method::kComputeQParams), index("ComputeQParams"));
  EXPECT_EQ(static_cast<size_t>(Method::kCompareMethods), index("CompareMethods"));
  EXPECT_EQ(static_cast<size_t>(Method::kGetStatistics), index("GetStatistics"));
  EXPECT_EQ(static_cast<size_t>(Method::kWatchQParams), index("WatchQParams"));
  EXPECT_EQ(static_cast<size_t>(Method::kExportState), index("ExportState"));
  EXPECT_EQ(static_cast<size_t>(Method::kImportState), index("ImportState"));
  EXPECT_LE(service->method_count(), static_cast<int>(Counters::kRpcs));
}

// A store that takes nothing while it is told so.
class FailingStore : public MemoryStore {
 public:
  absl::Status Commit(uint64_t epoch, std::vector<SessionCheckpoint> checkpoints) override {
    if (failing) return absl::InternalError("the disk is full");
    return MemoryStore::Commit(epoch, std::move(checkpoints));
  }
  std::atomic<bool> failing{false};
};

class LifecycleTest : public RpcTest {
 protected:
  LifecycleTest() : LifecycleTest(std::make_shared<FailingStore>()) {}
  explicit LifecycleTest(std::shared_ptr<FailingStore> store) : RpcTest(With(store)), store_(std::move(store)) {}
  static test::InProcessServerOptions With(const std::shared_ptr<Store>& store) {
    test::InProcessServerOptions options;
    options.store = store;
    options.engine.checkpoint_interval = absl::InfiniteDuration();
    return options;
  }
  const std::shared_ptr<FailingStore> store_;
};

TEST_F(LifecycleTest, HealthFollowsTheStore) {
  EXPECT_EQ(Health(server_.address(), ""), kServing);
  EXPECT_EQ(Health(server_.address(), "calib.v1.Calibration"), kServing);
  EXPECT_EQ(Health(server_.address(), "no.such.Service"), -1);

  store_->failing = true;
  v1::CreateSessionRequest create;
  create.set_session("lost");
  v1::CreateSessionResponse created;
  const grpc::Status status = Call(stub_.get(), &v1::Calibration::Stub::CreateSession, create, &created);
  EXPECT_REASON(status, STORE_FAILED, UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("the disk is full"));
  ASSERT_TRUE(Eventually([this] { return !server_.grpc().ready().ok(); })) << "noted after waiters were told";
  server_.grpc().UpdateHealth();
  EXPECT_EQ(Health(server_.address(), "calib.v1.Calibration"), kNotServing);
  EXPECT_THAT(std::string(server_.grpc().ready().message()), HasSubstr("the disk is full"));

  store_->failing = false;
  EXPECT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::CreateSession, create, &created).ok());
  ASSERT_TRUE(Eventually([this] { return server_.grpc().ready().ok(); }));
  server_.grpc().UpdateHealth();
  EXPECT_EQ(Health(server_.address(), ""), kServing);
}

TEST_F(LifecycleTest, AStoreThatFailsEndsHalfClosedStreamsWithoutALie) {
  ObserveClient client(stub_.get());
  client.Open("s", "w1");
  client.Write(RegisterMessage(0, {"range/a"}));
  client.Write(RangeMessage(1, 1, 0, 1, 0, 1));
  client.ReadAck([](const v1::Ack& ack) { return ack.applied() == 1; });
  store_->failing = true;
  client.WritesDone();
  v1::Ack ack;
  EXPECT_REASON(client.Finish(&ack), STORE_FAILED, UNAVAILABLE);
  EXPECT_EQ(ack.durable(), 0u);
}

TEST_F(LifecycleTest, DrainingRefusesNewWorkAndStaysIdempotent) {
  server_.engine().BeginDrain();
  server_.grpc().UpdateHealth();
  EXPECT_EQ(Health(server_.address(), ""), kNotServing);
  ObserveClient client(stub_.get());
  client.Write(OpenMessage("s", "w1"));
  EXPECT_REASON(client.Finish(), SERVER_DRAINING, UNAVAILABLE);
  v1::CreateSessionRequest create;
  create.set_session("late");
  v1::CreateSessionResponse created;
  EXPECT_REASON(Call(stub_.get(), &v1::Calibration::Stub::CreateSession, create, &created), SERVER_DRAINING,
                UNAVAILABLE);
  v1::GetSessionRequest get;
  get.set_session("s");
  v1::GetSessionResponse got;
  EXPECT_TRUE(Call(stub_.get(), &v1::Calibration::Stub::GetSession, get, &got).ok()) << "reading goes on";
  EXPECT_TRUE(server_.Stop(absl::Seconds(30)).ok());
  EXPECT_TRUE(server_.Stop(absl::Seconds(30)).ok());
}

TEST_F(LifecycleTest, StopReportsWhatCouldNotBeStored) {
  Push("s", {"range/a"}, {1});
  ASSERT_TRUE((*server_.engine().FindSession("s"))->SetEnabled("*", false).ok());
  store_->failing = true;
  EXPECT_EQ(GetReason(server_.Stop(absl::Seconds(30))), v1::ERROR_REASON_STORE_FAILED);
}

TEST_F(LifecycleTest, ATakenPortIsAClearError) {
  GrpcServerOptions options;
  options.listen = server_.grpc().address();
  const auto second = GrpcServer::Start(options, &server_.engine());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(std::string(second.status().message()),
            absl::StrCat("cannot listen on ", server_.address(), ": address already in use"));
}

TEST_F(LifecycleTest, ReflectionIsThereOnlyWhenAskedFor) {
  const auto reflects = [](const std::string& address) {
    grpc::CompletionQueue queue;
    grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
    const std::unique_ptr<grpc::ClientContext> context = TestContext();
    const auto call =
        stub.PrepareCall(context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    void* tag;
    bool ok;
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    call->WritesDone(nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    return status.ok();
  };
  EXPECT_FALSE(reflects(server_.address()));
  test::InProcessServerOptions options;
  options.grpc.reflection = true;
  test::InProcessServer reflecting(options);
  EXPECT_TRUE(reflects(reflecting.address()));
}

TEST(ListenAddressTest, ParsesHostAndPort) {
  EXPECT_EQ(ParseListenAddress("127.0.0.1:7070")->ToString(), "127.0.0.1:7070");
  EXPECT_EQ(ParseListenAddress("[::1]:0")->host, "::1");
  EXPECT_EQ(ParseListenAddress("[::1]:0")->ToString(), "[::1]:0");
  for (const char* bad : {"", "7070", "host", ":7070", "host:", "host:x", "host:65536", "host:-1", "::1:7070"}) {
    EXPECT_FALSE(ParseListenAddress(bad).ok()) << bad;
  }
}

TEST(ListenAddressTest, KnowsLoopback) {
  for (const char* local : {"127.0.0.1", "127.1.2.3", "localhost", "LocalHost", "::1"}) {
    EXPECT_TRUE(IsLoopback({local, 1})) << local;
  }
  for (const char* open : {"0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"}) {
    EXPECT_FALSE(IsLoopback({open, 1})) << open;
  }
}

}  // namespace
}  // namespace calib::server
