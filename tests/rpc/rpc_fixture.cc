#include "tests/rpc/rpc_fixture.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace calib::server {

std::unique_ptr<grpc::ClientContext> TestContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

v1::ErrorReason ReasonOf(const grpc::Status& status) {
  return GetReason(DecodeStatusDetails(static_cast<absl::StatusCode>(status.error_code()), status.error_message(),
                                       status.error_details()));
}

v1::ErrorReason ReasonOf(const v1::ErrorInfo& info) {
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  v1::ErrorReason_Parse(absl::StrCat("ERROR_REASON_", info.reason()), &reason);
  return reason;
}

v1::ObserveRequest OpenMessage(const std::string& session, const std::string& worker) {
  v1::ObserveRequest request;
  request.mutable_open()->set_session(session);
  request.mutable_open()->set_worker_id(worker);
  return request;
}

v1::ObserveRequest RegisterMessage(uint32_t first_handle, const std::vector<std::string>& names) {
  v1::ObserveRequest request;
  request.mutable_register_layers()->set_first_handle(first_handle);
  for (const std::string& name : names) request.mutable_register_layers()->add_name(name);
  return request;
}

v1::ObserveRequest RangeMessage(uint64_t first, uint64_t last, uint32_t handle, uint64_t count, float min, float max) {
  v1::ObserveRequest request;
  v1::Update* const update = request.mutable_update();
  update->set_first(first);
  update->set_last(last);
  v1::StatisticsBatch* const batch = update->mutable_statistics();
  batch->add_layer(handle);
  batch->add_count(count);
  batch->add_min(min);
  batch->add_max(max);
  return request;
}

v1::ObserveRequest RawMessage(uint64_t first, uint64_t last, uint32_t handle, const std::vector<float>& values) {
  v1::ObserveRequest request;
  v1::Update* const update = request.mutable_update();
  update->set_first(first);
  update->set_last(last);
  v1::TensorChunk* const tensor = update->mutable_tensor();
  tensor->set_layer(handle);
  tensor->set_data_type(v1::DATA_TYPE_FLOAT32);
  tensor->add_shape(values.size());
  tensor->set_data(values.data(), values.size() * sizeof(float));
  return request;
}

ObserveClient::~ObserveClient() {
  if (finished_) return;
  Cancel();
  Finish();
}

std::optional<v1::ObserveResponse> ObserveClient::Read() {
  v1::ObserveResponse response;
  if (!stream_->Read(&response)) return std::nullopt;
  return response;
}

v1::Welcome ObserveClient::Open(const std::string& session, const std::string& worker) {
  Write(OpenMessage(session, worker));
  const std::optional<v1::ObserveResponse> response = Read();
  if (!response.has_value() || !response->has_welcome()) {
    const grpc::Status status = Finish();
    ADD_FAILURE() << "no Welcome: " << status.error_message();
    return {};
  }
  return response->welcome();
}

v1::Ack ObserveClient::ReadAck(const std::function<bool(const v1::Ack&)>& enough) {
  while (const std::optional<v1::ObserveResponse> response = Read()) {
    if (!response->has_ack()) {
      ADD_FAILURE() << "not an Ack: " << response->ShortDebugString();
      return {};
    }
    if (enough(response->ack())) return response->ack();
  }
  ADD_FAILURE() << "the stream ended before the Ack: " << Finish().error_message();
  return {};
}

v1::Refusal ObserveClient::ReadRefusal() {
  while (const std::optional<v1::ObserveResponse> response = Read()) {
    if (response->has_refusal()) return response->refusal();
  }
  ADD_FAILURE() << "the stream ended before the refusal: " << Finish().error_message();
  return {};
}

grpc::Status ObserveClient::Finish(v1::Ack* last_ack) {
  while (const std::optional<v1::ObserveResponse> response = Read()) {
    if (last_ack != nullptr && response->has_ack()) *last_ack = response->ack();
  }
  finished_ = true;
  return stream_->Finish();
}

RpcTest::RpcTest(const test::InProcessServerOptions& options) : server_(options), stub_(NewStub()) {
  CreateSession("s");
}

std::unique_ptr<v1::Calibration::Stub> RpcTest::NewStub(grpc::ChannelArguments arguments) {
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Calibration::NewStub(
      grpc::CreateCustomChannel(server_.address(), grpc::InsecureChannelCredentials(), arguments));
}

v1::SessionConfig RpcTest::Config() {
  v1::SessionConfig config;
  v1::LayerRule* rule = config.add_rules();
  rule->set_pattern("range/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_MINMAX);
  rule = config.add_rules();
  rule->set_pattern("skip/*");
  rule->set_skip(true);
  rule = config.add_rules();
  rule->set_pattern("channels/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
  rule->mutable_observer()->set_channel_axis(0);
  rule = config.add_rules();
  rule->set_pattern("ema/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_EMA);
  rule->mutable_observer()->mutable_ema()->set_convention(v1::EMA_CONVENTION_PYTORCH);
  rule->mutable_observer()->mutable_ema()->set_weight(0.5);
  rule = config.add_rules();
  rule->set_pattern("ema_channels/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_EMA);
  rule->mutable_observer()->set_channel_axis(-1);
  rule->mutable_observer()->mutable_ema()->set_convention(v1::EMA_CONVENTION_MEGENGINE);
  rule = config.add_rules();
  rule->set_pattern("reference/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_REFERENCE_HISTOGRAM);
  rule->mutable_observer()->mutable_reference_histogram()->set_rule(v1::REFERENCE_RULE_MXNET);
  rule = config.add_rules();
  rule->set_pattern("passive/*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_PASSIVE);
  rule = config.add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_HISTOGRAM);
  return config;
}

void RpcTest::CreateSession(const std::string& name) {
  v1::CreateSessionRequest request;
  request.set_session(name);
  *request.mutable_config() = Config();
  v1::CreateSessionResponse response;
  const grpc::Status status = Call(stub_.get(), &v1::Calibration::Stub::CreateSession, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

void RpcTest::Push(const std::string& session, const std::vector<std::string>& layers,
                   const std::vector<float>& values) {
  ObserveClient client(stub_.get());
  const uint64_t applied = client.Open(session, "pusher").applied();
  client.Write(RegisterMessage(0, layers));
  for (size_t i = 0; i < layers.size(); ++i) {
    client.Write(RawMessage(applied + i + 1, applied + i + 1, static_cast<uint32_t>(i), values));
  }
  client.WritesDone();
  v1::Ack ack;
  const grpc::Status status = client.Finish(&ack);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(ack.durable(), applied + layers.size());
}

::testing::AssertionResult RpcTest::Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!condition()) {
    if (absl::Now() > deadline) return ::testing::AssertionFailure() << "not within a minute";
    v1::ListSessionsResponse response;
    (void)Call(stub_.get(), &v1::Calibration::Stub::ListSessions, v1::ListSessionsRequest(), &response);
  }
  return ::testing::AssertionSuccess();
}

}  // namespace calib::server
