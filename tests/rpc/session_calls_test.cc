#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionCallsTest : public RpcTest {
 protected:
  grpc::Status Create(const std::string& name, const v1::SessionConfig& config, v1::CreateSessionResponse* response) {
    v1::CreateSessionRequest request;
    request.set_session(name);
    *request.mutable_config() = config;
    return Call(stub_.get(), &Stub::CreateSession, request, response);
  }
  grpc::Status Get(const std::string& name, v1::GetSessionResponse* response, int page_size = 0,
                   const std::string& token = "") {
    v1::GetSessionRequest request;
    request.set_session(name);
    request.set_page_size(page_size);
    request.set_page_token(token);
    return Call(stub_.get(), &Stub::GetSession, request, response);
  }
  grpc::Status Delete(const std::string& name) {
    v1::DeleteSessionRequest request;
    request.set_session(name);
    v1::DeleteSessionResponse response;
    return Call(stub_.get(), &Stub::DeleteSession, request, &response);
  }
};

TEST_F(SessionCallsTest, CreateIsIdempotentForAnEqualConfig) {
  v1::CreateSessionResponse response;
  ASSERT_TRUE(Create("new", {}, &response).ok());
  EXPECT_TRUE(response.created());
  EXPECT_EQ(response.session().name(), "new");
  EXPECT_EQ(response.session().config().mantissa_bits(), 7u) << "defaults are filled in";
  EXPECT_EQ(response.session().config().rules_size(), 1);
  EXPECT_GT(response.session().create_time().seconds(), 1'000'000'000);
  const v1::SessionConfig canonical = response.session().config();
  ASSERT_TRUE(Create("new", canonical, &response).ok());
  EXPECT_FALSE(response.created());
}

TEST_F(SessionCallsTest, CreateRefusesAnotherConfigAndMalformedFields) {
  v1::SessionConfig config;
  config.set_mantissa_bits(5);
  v1::CreateSessionResponse response;
  EXPECT_REASON(Create("s", config, &response), SESSION_CONFIG_MISMATCH, ALREADY_EXISTS);
  EXPECT_REASON(Create("", {}, &response), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Create("no spaces", {}, &response), INVALID_FIELD, INVALID_ARGUMENT);
  config.set_mantissa_bits(3);
  const grpc::Status status = Create("coarse", config, &response);
  EXPECT_REASON(status, INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("mantissa_bits"));
}

TEST_F(SessionCallsTest, UnknownSessionIsNotFoundEverywhere) {
  v1::GetSessionResponse get;
  const grpc::Status status = Get("nowhere", &get);
  EXPECT_REASON(status, SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("nowhere"));
  v1::SealSessionRequest seal;
  seal.set_session("nowhere");
  v1::SealSessionResponse sealed;
  EXPECT_REASON(Call(stub_.get(), &Stub::SealSession, seal, &sealed), SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Delete("nowhere"), SESSION_NOT_FOUND, NOT_FOUND);
  v1::FlushRequest flush;
  flush.set_session("nowhere");
  v1::FlushResponse flushed;
  EXPECT_REASON(Call(stub_.get(), &Stub::Flush, flush, &flushed), SESSION_NOT_FOUND, NOT_FOUND);
  v1::SetObserversEnabledRequest enable;
  enable.set_session("nowhere");
  enable.set_pattern("*");
  v1::SetObserversEnabledResponse enabled;
  EXPECT_REASON(Call(stub_.get(), &Stub::SetObserversEnabled, enable, &enabled), SESSION_NOT_FOUND, NOT_FOUND);
}

TEST_F(SessionCallsTest, GetPagesThroughLayersInNameOrder) {
  Push("s", {"b", "a", "range/c"}, {1, -2, 3});
  v1::GetSessionResponse first;
  ASSERT_TRUE(Get("s", &first, 2).ok());
  ASSERT_EQ(first.layer_size(), 2);
  EXPECT_EQ(first.layer(0).layer(), "a");
  EXPECT_EQ(first.layer(1).layer(), "b");
  EXPECT_EQ(first.layer(0).count(), 3u);
  EXPECT_EQ(first.layer(0).min(), -2);
  EXPECT_EQ(first.layer(0).max(), 3);
  EXPECT_EQ(first.layer(0).channels(), 1u);
  EXPECT_EQ(first.layer(0).workers(), 1u);
  EXPECT_TRUE(first.layer(0).enabled());
  EXPECT_EQ(first.layer(0).observer().kind(), v1::OBSERVER_KIND_HISTOGRAM);
  ASSERT_EQ(first.worker_size(), 1);
  EXPECT_EQ(first.worker(0).worker_id(), "pusher");
  EXPECT_EQ(first.worker(0).durable(), 3u);
  EXPECT_FALSE(first.worker(0).connected());
  EXPECT_EQ(first.session().layer_count(), 3u);
  EXPECT_EQ(first.session().values(), 9u);

  v1::GetSessionResponse second;
  ASSERT_TRUE(Get("s", &second, 2, first.next_page_token()).ok());
  ASSERT_EQ(second.layer_size(), 1);
  EXPECT_EQ(second.layer(0).layer(), "range/c");
  EXPECT_EQ(second.layer(0).observer().kind(), v1::OBSERVER_KIND_MINMAX);
  EXPECT_EQ(second.worker_size(), 0) << "workers come with the first page";
  EXPECT_EQ(second.next_page_token(), "");
}

TEST_F(SessionCallsTest, MalformedPagesAreRefused) {
  v1::GetSessionResponse response;
  EXPECT_REASON(Get("s", &response, 0, "a"), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Get("s", &response, 0, "bm90IGEgdG9rZW4"), INVALID_FIELD, INVALID_ARGUMENT);
  EXPECT_REASON(Get("s", &response, -1), INVALID_FIELD, INVALID_ARGUMENT);
  v1::ListSessionsRequest list;
  list.set_page_token("%%%");
  v1::ListSessionsResponse listed;
  EXPECT_REASON(Call(stub_.get(), &Stub::ListSessions, list, &listed), INVALID_FIELD, INVALID_ARGUMENT);
}

TEST_F(SessionCallsTest, ListPagesThroughSessionsInNameOrder) {
  for (const char* name : {"c", "a", "b"}) CreateSession(name);
  std::vector<std::string> names;
  v1::ListSessionsRequest request;
  request.set_page_size(3);
  do {
    v1::ListSessionsResponse response;
    ASSERT_TRUE(Call(stub_.get(), &Stub::ListSessions, request, &response).ok());
    for (const v1::Session& session : response.session()) names.push_back(session.name());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, ElementsAre("a", "b", "c", "s"));
}

TEST_F(SessionCallsTest, SealEndsCollectionAndCanBeRepeated) {
  Push("s", {"a"}, {1});
  for (int i = 0; i < 2; ++i) {
    v1::SealSessionRequest request;
    request.set_session("s");
    v1::SealSessionResponse response;
    ASSERT_TRUE(Call(stub_.get(), &Stub::SealSession, request, &response).ok());
    EXPECT_TRUE(response.session().sealed());
    EXPECT_EQ(response.session().updates_applied(), 1u);
  }
  v1::SetObserversEnabledRequest enable;
  enable.set_session("s");
  enable.set_pattern("*");
  v1::SetObserversEnabledResponse enabled;
  EXPECT_REASON(Call(stub_.get(), &Stub::SetObserversEnabled, enable, &enabled), SESSION_SEALED, FAILED_PRECONDITION);
}

TEST_F(SessionCallsTest, DeleteRemovesTheSession) {
  EXPECT_TRUE(Delete("s").ok());
  v1::GetSessionResponse response;
  EXPECT_REASON(Get("s", &response), SESSION_NOT_FOUND, NOT_FOUND);
  EXPECT_REASON(Delete("s"), SESSION_NOT_FOUND, NOT_FOUND);
}

TEST_F(SessionCallsTest, DisabledObserversIgnoreWhatComes) {
  Push("s", {"a", "b"}, {1, 2});
  v1::SetObserversEnabledRequest request;
  request.set_session("s");
  request.set_pattern("a*");
  v1::SetObserversEnabledResponse response;
  ASSERT_TRUE(Call(stub_.get(), &Stub::SetObserversEnabled, request, &response).ok());
  EXPECT_EQ(response.layers(), 1u);
  Push("s", {"a", "b"}, {1, 2});
  v1::GetSessionResponse get;
  ASSERT_TRUE(Get("s", &get).ok());
  EXPECT_EQ(get.layer(0).count(), 2u);
  EXPECT_FALSE(get.layer(0).enabled());
  EXPECT_EQ(get.layer(1).count(), 4u);
  EXPECT_EQ(get.session().values_ignored(), 2u);

  request.set_pattern("");
  EXPECT_REASON(Call(stub_.get(), &Stub::SetObserversEnabled, request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  request.set_pattern(std::string(513, 'a'));
  EXPECT_REASON(Call(stub_.get(), &Stub::SetObserversEnabled, request, &response), INVALID_FIELD, INVALID_ARGUMENT);
}

TEST_F(SessionCallsTest, FlushCountsWhatIsDurable) {
  Push("s", {"a", "b"}, {1});
  v1::FlushRequest request;
  request.set_session("s");
  v1::FlushResponse response;
  ASSERT_TRUE(Call(stub_.get(), &Stub::Flush, request, &response).ok());
  EXPECT_EQ(response.updates(), 2u);
}

TEST_F(SessionCallsTest, CallsAreCountedByMethodAndCode) {
  v1::GetSessionResponse response;
  ASSERT_TRUE(Get("s", &response).ok());
  ASSERT_FALSE(Get("nowhere", &response).ok());
  ASSERT_FALSE(Get("nowhere", &response).ok());
  const auto& calls = server_.engine().counters().calls;
  const google::protobuf::ServiceDescriptor* const service =
      v1::GetSessionRequest::descriptor()->file()->FindServiceByName("Calibration");
  const int get = service->FindMethodByName("GetSession")->index();
  EXPECT_EQ(calls[get][grpc::StatusCode::OK], 1u);
  EXPECT_EQ(calls[get][grpc::StatusCode::NOT_FOUND], 2u);
  EXPECT_EQ(calls[service->FindMethodByName("CreateSession")->index()][grpc::StatusCode::OK], 1u);
}

TEST_F(SessionCallsTest, ErrorDetailsDecodeAsGoogleRpcStatus) {
  v1::GetSessionResponse response;
  const grpc::Status status = Get("nowhere", &response);
  v1::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), status.error_code());
  EXPECT_EQ(details.message(), status.error_message());
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  v1::ErrorInfo info;
  ASSERT_TRUE(info.ParseFromString(details.details(0).value()));
  EXPECT_EQ(info.reason(), "SESSION_NOT_FOUND");
  EXPECT_EQ(info.domain(), "calibd");
  EXPECT_EQ(info.metadata().at("session"), "nowhere");
}

}  // namespace
}  // namespace calib::server
