// Synchronous steps over gRPC: results on every rank's stream, worlds, what GetSession and /metrics say, the drain.

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "server/web/metrics.h"
#include "tests/rpc/rpc_fixture.h"

namespace calib::server {
namespace {

using Stub = v1::Calibration::Stub;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::SessionConfig Synchronous(uint32_t world_size, v1::StragglerPolicy policy, int deadline_ms) {
  v1::SessionConfig config;
  v1::LayerRule* const rule = config.add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_EMA);
  rule->mutable_observer()->mutable_ema()->set_convention(v1::EMA_CONVENTION_MEGENGINE);
  config.mutable_synchronous()->set_world_size(world_size);
  config.mutable_synchronous()->set_straggler_policy(policy);
  if (deadline_ms > 0) config.mutable_synchronous()->mutable_deadline()->set_nanos(deadline_ms * 1000000);
  return config;
}

// One layer's range as a rank's part of a step.
v1::ObserveRequest StepMessage(uint64_t epoch, uint64_t step, float min, float max) {
  v1::ObserveRequest request;
  v1::StepContribution* const contribution = request.mutable_step_contribution();
  contribution->set_world_epoch(epoch);
  contribution->set_step(step);
  v1::StatisticsBatch* const batch = contribution->mutable_statistics();
  batch->add_layer(0);
  batch->add_count(2);
  batch->add_min(min);
  batch->add_max(max);
  return request;
}

class SynchronousRpcTest : public RpcTest {
 protected:
  void Create(const v1::SessionConfig& config) {
    v1::CreateSessionRequest request;
    request.set_session("sync");
    *request.mutable_config() = config;
    v1::CreateSessionResponse response;
    const grpc::Status status = Call(stub_.get(), &Stub::CreateSession, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  // A rank's stream, with layer "a" on handle 0.
  std::unique_ptr<ObserveClient> OpenRank(uint32_t rank, v1::Welcome* welcome = nullptr) {
    auto client = std::make_unique<ObserveClient>(stub_.get());
    v1::ObserveRequest open = OpenMessage("sync", "rank-" + std::to_string(rank));
    open.mutable_open()->set_rank(rank);
    EXPECT_TRUE(client->Write(open));
    const auto answer = client->Read();
    EXPECT_TRUE(answer.has_value() && answer->has_welcome());
    if (welcome != nullptr && answer.has_value()) *welcome = answer->welcome();
    EXPECT_TRUE(client->Write(RegisterMessage(0, {"a"})));
    return client;
  }
  // The next message that is no Ack.
  static v1::ObserveResponse ReadStep(ObserveClient* client) {
    for (auto answer = client->Read(); answer.has_value(); answer = client->Read()) {
      if (!answer->has_ack()) return *answer;
    }
    ADD_FAILURE() << "the stream ended";
    return {};
  }
  v1::GetSessionResponse Describe() {
    v1::GetSessionRequest request;
    request.set_session("sync");
    v1::GetSessionResponse response;
    const grpc::Status status = Call(stub_.get(), &Stub::GetSession, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  std::string Metrics() { return MetricsText(MetricsCollector(&server_.engine().counters())); }
};

TEST_F(SynchronousRpcTest, EveryRankIsAnsweredAndDurabilityIsTold) {
  Create(Synchronous(2, v1::STRAGGLER_POLICY_WAIT, 0));
  v1::Welcome welcome;
  const auto first = OpenRank(0, &welcome), second = OpenRank(1);
  EXPECT_EQ(welcome.world().size(), 2u);
  EXPECT_EQ(welcome.config().synchronous().window(), 16u);
  for (uint64_t step = 1; step <= 5; ++step) {
    ASSERT_TRUE(first->Write(StepMessage(1, step, -1, static_cast<float>(step))));
    ASSERT_TRUE(second->Write(StepMessage(1, step, -2, 0)));
    for (ObserveClient* rank : {first.get(), second.get()}) {
      const v1::ObserveResponse answer = ReadStep(rank);
      EXPECT_EQ(answer.step_result().step(), step);
      EXPECT_THAT(answer.step_result().step_min(), ElementsAre(-2));
      EXPECT_THAT(answer.step_result().step_max(), ElementsAre(step));
    }
  }
  v1::FlushRequest flush;
  flush.set_session("sync");
  v1::FlushResponse flushed;
  ASSERT_TRUE(Call(stub_.get(), &Stub::Flush, flush, &flushed).ok());
  first->ReadAck([](const v1::Ack& ack) { return ack.durable_step() == 5 && ack.folded_step() == 5; });
  first->WritesDone();
  EXPECT_TRUE(first->Finish().ok());
}

TEST_F(SynchronousRpcTest, GetSessionAndMetricsSayWhoIsMissing) {
  Create(Synchronous(3, v1::STRAGGLER_POLICY_CLOSE_PARTIAL, 100));
  const auto first = OpenRank(0);
  ASSERT_TRUE(first->Write(StepMessage(1, 1, 0, 1)));
  EXPECT_EQ(ReadStep(first.get()).step_result().ranks(), 1u);
  const auto late = OpenRank(2);
  ASSERT_TRUE(late->Write(StepMessage(1, 1, 0, 9)));
  EXPECT_FALSE(ReadStep(late.get()).step_result().counted());
  const v1::GetSessionResponse described = Describe();
  const v1::SynchronousStatus& status = described.session().synchronous();
  EXPECT_EQ(status.folded_step(), 1u);
  EXPECT_EQ(status.partial_steps(), 1u);
  EXPECT_EQ(status.late_contributions(), 1u);
  ASSERT_EQ(described.worker_size(), 2);
  EXPECT_EQ(described.worker(1).rank(), 2u);
  EXPECT_EQ(described.worker(1).step(), 1u);
  const std::string metrics = Metrics();
  EXPECT_THAT(metrics, HasSubstr("calibd_steps_folded_total 1\n"));
  EXPECT_THAT(metrics, HasSubstr("calibd_partial_steps_total 1\n"));
  EXPECT_THAT(metrics, HasSubstr("calibd_late_contributions_total 1\n"));
}

TEST_F(SynchronousRpcTest, SetWorldTellsAllRanks) {
  Create(Synchronous(3, v1::STRAGGLER_POLICY_WAIT, 0));
  const auto first = OpenRank(0), second = OpenRank(1);
  ASSERT_TRUE(first->Write(StepMessage(1, 1, 0, 1)));
  ASSERT_TRUE(Eventually([&] { return Describe().session().synchronous().open_steps() == 1; }));
  EXPECT_THAT(Describe().session().synchronous().missing_rank(), ElementsAre(1, 2));
  v1::SetWorldRequest request;
  request.set_session("sync");
  request.set_expected_epoch(1);
  request.set_world_size(2);
  v1::SetWorldResponse response;
  ASSERT_TRUE(Call(stub_.get(), &Stub::SetWorld, request, &response).ok());
  EXPECT_EQ(response.world().epoch(), 2u);
  EXPECT_EQ(response.world().size(), 2u);
  EXPECT_REASON(Call(stub_.get(), &Stub::SetWorld, request, &response), WORLD_EPOCH_STALE, ABORTED);
  request.set_world_size(0);
  EXPECT_REASON(Call(stub_.get(), &Stub::SetWorld, request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  request.set_world_size(65537);
  EXPECT_REASON(Call(stub_.get(), &Stub::SetWorld, request, &response), INVALID_FIELD, INVALID_ARGUMENT);
  request.set_world_size(2);
  request.set_session("s");
  EXPECT_REASON(Call(stub_.get(), &Stub::SetWorld, request, &response), SESSION_NOT_SYNCHRONOUS, FAILED_PRECONDITION);
  EXPECT_EQ(ReadStep(first.get()).world().epoch(), 2u);
  const v1::ObserveResponse dropped = ReadStep(first.get());
  EXPECT_EQ(dropped.refusal().step(), 1u);
  EXPECT_EQ(ReasonOf(dropped.refusal().info()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  EXPECT_EQ(ReadStep(second.get()).world().size(), 2u);
  ASSERT_TRUE(second->Write(StepMessage(2, 1, 0, 1)));
  ASSERT_TRUE(first->Write(StepMessage(2, 1, 0, 2)));
  EXPECT_THAT(ReadStep(second.get()).step_result().max(), ElementsAre(2));
}

TEST_F(SynchronousRpcTest, ADrainWaitsForNoRank) {
  Create(Synchronous(2, v1::STRAGGLER_POLICY_WAIT, 0));
  const auto first = OpenRank(0);
  ASSERT_TRUE(first->Write(StepMessage(1, 1, 0, 1)));
  ASSERT_TRUE(Eventually([&] { return Describe().session().synchronous().open_steps() == 1; }));
  server_.engine().BeginDrain();
  EXPECT_REASON(first->Finish(), SERVER_DRAINING, UNAVAILABLE);
}

TEST_F(SynchronousRpcTest, StreamsWithoutAPlaceInTheWorldEnd) {
  Create(Synchronous(2, v1::STRAGGLER_POLICY_WAIT, 0));
  ObserveClient outside(stub_.get());
  v1::ObserveRequest open = OpenMessage("sync", "w");
  open.mutable_open()->set_rank(2);
  ASSERT_TRUE(outside.Write(open));
  EXPECT_REASON(outside.Finish(), RANK_INVALID, INVALID_ARGUMENT);
  ObserveClient plain(stub_.get());
  open.mutable_open()->set_session("s");
  ASSERT_TRUE(plain.Write(open));
  EXPECT_REASON(plain.Finish(), SESSION_NOT_SYNCHRONOUS, FAILED_PRECONDITION);
}

}  // namespace
}  // namespace calib::server
