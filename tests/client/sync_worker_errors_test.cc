// What ends synchronous steps and their workers, and what goes on.
#include <limits>
#include <thread>

#include "client/cpp/sync_worker.h"
#include "tests/client/sync_fixture.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SyncWorkerErrorsTest : public SyncFixture {
 protected:
  void SetWorld(const std::string& session, uint64_t expected_epoch, uint32_t size) {
    v1::SetWorldRequest request;
    request.set_session(session);
    request.set_expected_epoch(expected_epoch);
    request.set_world_size(size);
    const auto response = client_->SetWorld(request);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->world().epoch(), expected_epoch + 1);
  }
  // Returns once the worker knows of the world.
  void AwaitWorld(const SyncWorker& worker, uint64_t epoch) {
    const absl::Time deadline = absl::Now() + kLong;
    while (worker.world().epoch < epoch) ASSERT_LT(absl::Now(), deadline);
  }

  const Tensor tensor_ = Vector({1, 2});
  const std::vector<StepLayer> layers_ = {{"a", tensor_.view()}};
};

TEST_F(SyncWorkerErrorsTest, OpenSaysWhatIsWrong) {
  const auto open = [&](const SyncWorkerOptions& options) {
    return SyncWorker::Open(client_, options, kLong).status();
  };
  EXPECT_EQ(GetReason(open(FastRank("nowhere", 0))), v1::ERROR_REASON_SESSION_NOT_FOUND);
  CreateSession("plain");
  EXPECT_EQ(GetReason(open(FastRank("plain", 0))), v1::ERROR_REASON_SESSION_NOT_SYNCHRONOUS);
  CreateSyncSession("s", 2);
  EXPECT_EQ(GetReason(open(FastRank("s", 2))), v1::ERROR_REASON_RANK_INVALID);
  proxy_->SetAway(true);
  EXPECT_TRUE(absl::IsUnavailable(SyncWorker::Open(client_, FastRank("s", 0), absl::Milliseconds(100)).status()));
}

TEST_F(SyncWorkerErrorsTest, WhatIsWrongWithAStepIsSaidBeforeItIsSent) {
  CreateSyncSession("s", 1);
  const auto worker = OpenRank("s", 0);
  const std::vector<double> two = {1, 2};
  const std::vector<double> one = {1};
  const auto step = [&](const std::vector<StepLayer>& layers, double weight = 1) {
    StepOptions options = AtStep(1);
    options.gradient_weight = weight;
    return worker->Step(layers, options).status();
  };
  EXPECT_EQ(GetReason(step({layers_[0], layers_[0]})), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(GetReason(step({{"", tensor_.view()}})), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(GetReason(step({{"a", StepGradients{one, {}, 1}}})), v1::ERROR_REASON_OBSERVER_MISMATCH);
  EXPECT_EQ(GetReason(step({{"learned", StepGradients{two, one, 1}}})), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(GetReason(step(layers_, 0)), v1::ERROR_REASON_INVALID_FIELD);
  const absl::Status no_axis = step({{"channels", tensor_.view()}});
  EXPECT_TRUE(absl::IsInvalidArgument(no_axis));
  EXPECT_THAT(std::string(no_axis.message()), HasSubstr("layer \"channels\""));
  SyncWorkerOptions small = FastRank("s", 0);
  small.max_message_bytes = 100;
  const auto worker_of_small = OpenRank(small);
  const Tensor wide = WholeTensor("a", 1);
  const std::vector<StepLayer> large = {{"a", wide.view()}};
  EXPECT_EQ(GetReason(worker_of_small->Step(large, AtStep(1)).status()), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(worker_of_small->next_step(), 1u);
  EXPECT_TRUE(worker_of_small->Step({}, AtStep(1)).ok()) << "a step needs no layer";
}

TEST_F(SyncWorkerErrorsTest, ARefusedStepIsTheNextOneAgain) {
  CreateSyncSession("s", 1);
  const auto worker = OpenRank("s", 0);
  const Tensor three = {{1, 3}, {1, 2, 3}};
  const Tensor two = {{1, 2}, {1, 2}};
  const std::vector<StepLayer> first = {{"channels", three.view()}};
  const std::vector<StepLayer> other = {{"channels", two.view()}};
  ASSERT_TRUE(worker->Step(first).ok());
  EXPECT_EQ(GetReason(worker->Step(other).status()), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(worker->next_step(), 2u);
  auto pending = worker->StartStep(other);
  ASSERT_TRUE(pending.ok());
  while (!pending->ready()) std::this_thread::yield();
  // Else the next one would silently become step 2.
  EXPECT_EQ(GetReason(worker->StartStep(first).status()), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  const auto result = worker->Step(first);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->step, 2u);
  EXPECT_TRUE(worker->Close(kLong).ok());
}

TEST_F(SyncWorkerErrorsTest, AChangeOfTheWorldDropsWhatIsOpen) {
  CreateSyncSession("s", 2);
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  ASSERT_NO_FATAL_FAILURE(
      Together(2, [&](uint32_t rank) { RunRank((rank == 0 ? first : second).get(), 2, rank, 1, 1); }));
  auto pending = first->StartStep(layers_);
  ASSERT_TRUE(pending.ok());
  SetWorld("s", 1, 3);
  const auto dropped = pending->Wait(absl::Now() + kLong);
  EXPECT_EQ(GetReason(dropped.status()), v1::ERROR_REASON_WORLD_EPOCH_STALE) << dropped.status();
  EXPECT_EQ(first->world(), (StepWorld{2, 3}));
  EXPECT_EQ(first->next_step(), 2u);
  AwaitWorld(*second, 2);
  const auto third = OpenRank("s", 2);
  Together(3, [&](uint32_t rank) {
    SyncWorker* const worker = (rank == 0 ? first : rank == 1 ? second : third).get();
    RunRank(worker, 3, rank, 2, 4);
    EXPECT_TRUE(worker->Close(kLong).ok());
  });
  EXPECT_EQ(Statistics("s").SerializeAsString(), ExpectedStatistics(4));
}

TEST_F(SyncWorkerErrorsTest, EndsWhileTheServerIsAway) {
  CreateSyncSession("s", 1);
  for (const bool close : {true, false}) {
    auto worker = OpenRank("s", 0);
    proxy_->SetAway(true);
    for (const int seen = proxy_->refusals(); proxy_->refusals() == seen;) std::this_thread::yield();
    if (close) {
      EXPECT_TRUE(worker->Close(kLong).ok());
    }
    worker.reset();
    proxy_->SetAway(false);
  }
}

TEST_F(SyncWorkerErrorsTest, AWorldThatChangedUnheardOfIsToldOnce) {
  CreateSyncSession("s", 2);
  const auto worker = OpenRank("s", 0);
  proxy_->SetAway(true);
  Client direct(OptionsFor(server_->address()));
  v1::SetWorldRequest request;
  request.set_session("s");
  request.set_expected_epoch(1);
  request.set_world_size(1);
  ASSERT_TRUE(direct.SetWorld(request).ok());
  EXPECT_EQ(GetReason(direct.SetWorld(request).status()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  auto pending = worker->StartStep(layers_);  // may be taken while the worker does not know
  proxy_->SetAway(false);
  if (pending.ok()) {
    EXPECT_EQ(GetReason(pending->Wait(absl::Now() + kLong).status()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  } else {
    EXPECT_EQ(GetReason(pending.status()), v1::ERROR_REASON_WORLD_EPOCH_STALE);
  }
  const auto result = worker->Step(layers_, AtStep(1));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->world_epoch, 2u);
}

TEST_F(SyncWorkerErrorsTest, ARankThatTheWorldLosesIsRefused) {
  CreateSyncSession("s", 2);
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  SetWorld("s", 1, 1);
  AwaitWorld(*first, 2);
  AwaitWorld(*second, 2);
  EXPECT_EQ(GetReason(second->Step(layers_, AtStep(1)).status()), v1::ERROR_REASON_RANK_INVALID);
  ASSERT_TRUE(first->Step(layers_, AtStep(1)).ok());
  EXPECT_EQ(GetReason(second->Step(layers_, AtStep(2)).status()), v1::ERROR_REASON_RANK_INVALID);
  SetWorld("s", 2, 2);
  AwaitWorld(*first, 3);
  AwaitWorld(*second, 3);
  Together(2, [&](uint32_t rank) {
    const auto result = (rank == 0 ? first : second)->Step(layers_, AtStep(2));
    EXPECT_TRUE(result.ok()) << result.status();
  });
}

TEST_F(SyncWorkerErrorsTest, AStepThatSomebodyMissesFailsAtItsDeadlineAndIsTriedAgain) {
  SynchronousOptions synchronous;
  synchronous.world_size = 2;
  synchronous.straggler_policy = StragglerPolicy::kFail;
  synchronous.deadline = absl::Milliseconds(50);
  CreateSession("s", EncodeSessionConfig(StepConfig(synchronous)));
  const auto first = OpenRank("s", 0);
  const auto failed = first->Step(layers_, AtStep(1));
  EXPECT_EQ(GetReason(failed.status()), v1::ERROR_REASON_STEP_TIMED_OUT) << failed.status();
  EXPECT_EQ(first->next_step(), 1u);
  Together(2, [&](uint32_t rank) {
    const auto second = rank == 1 ? OpenRank("s", 1) : nullptr;
    SyncWorker* const worker = rank == 0 ? first.get() : second.get();
    absl::Status status;
    do {
      status = worker->Step(layers_, AtStep(1)).status();
    } while (GetReason(status) == v1::ERROR_REASON_STEP_TIMED_OUT);
    EXPECT_TRUE(status.ok()) << status;
  });
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(4));
}

TEST_F(SyncWorkerErrorsTest, LateContributionsAreAnsweredAndNotCounted) {
  SynchronousOptions synchronous;
  synchronous.world_size = 2;
  synchronous.straggler_policy = StragglerPolicy::kClosePartial;
  synchronous.deadline = absl::Milliseconds(1);
  synchronous.window = 2;
  CreateSession("s", EncodeSessionConfig(StepConfig(synchronous)));
  const auto first = OpenRank("s", 0);
  const auto second = OpenRank("s", 1);
  const auto alone = first->Step(layers_, AtStep(1));
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(alone->ranks, 1u);
  EXPECT_EQ(alone->world_size, 2u);
  const auto late = second->Step(layers_);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_EQ(late->step, 1u);
  EXPECT_FALSE(late->counted);
  for (uint64_t step = 2; step <= 5; ++step) ASSERT_TRUE(first->Step(layers_, AtStep(step)).ok());
  const auto too_late = second->Step(layers_);
  EXPECT_EQ(GetReason(too_late.status()), v1::ERROR_REASON_STEP_OUT_OF_WINDOW) << too_late.status();
  EXPECT_EQ(second->next_step(), 6u);
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(10));
}

TEST_F(SyncWorkerErrorsTest, ANewerWorkerOfARankEndsTheOlder) {
  CreateSyncSession("s", 2);
  const auto older = OpenRank("s", 0);
  auto pending = older->StartStep(layers_);
  ASSERT_TRUE(pending.ok());
  const auto newer = OpenRank("s", 0);
  EXPECT_EQ(GetReason(pending->Wait(absl::Now() + kLong).status()), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_EQ(GetReason(older->Step(layers_).status()), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_EQ(GetReason(older->status()), v1::ERROR_REASON_WORKER_FENCED);
  EXPECT_TRUE(newer->status().ok());
}

TEST_F(SyncWorkerErrorsTest, TheEndOfASessionEndsItsRanks) {
  CreateSyncSession("deleted", 2);
  CreateSyncSession("sealed", 2);
  const auto of_deleted = OpenRank("deleted", 0);
  const auto of_sealed = OpenRank("sealed", 0);
  auto pending = of_deleted->StartStep(layers_);
  ASSERT_TRUE(pending.ok());
  v1::DeleteSessionRequest delete_request;
  delete_request.set_session("deleted");
  ASSERT_TRUE(client_->DeleteSession(delete_request).ok());
  EXPECT_TRUE(absl::IsNotFound(pending->Wait(absl::Now() + kLong).status()));
  v1::SealSessionRequest seal_request;
  seal_request.set_session("sealed");
  ASSERT_TRUE(client_->SealSession(seal_request).ok());
  EXPECT_EQ(GetReason(of_sealed->Step(layers_, AtStep(1)).status()), v1::ERROR_REASON_SESSION_SEALED);
}

TEST_F(SyncWorkerErrorsTest, AServerThatForgotDurableStepsIsReported) {
  CreateSyncSession("s", 1);
  const auto worker = OpenRank("s", 0);
  ASSERT_TRUE(worker->Step(layers_, AtStep(1)).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  proxy_->SetAway(true);
  server_options_.store = std::make_shared<server::MemoryStore>();
  RestartServer();
  client_ = std::make_shared<Client>(OptionsFor(server_->address()));
  CreateSyncSession("s", 1);
  proxy_->SetAway(false);
  const auto lost = worker->Step(layers_, AtStep(2));
  EXPECT_TRUE(absl::IsDataLoss(lost.status())) << lost.status();
}

TEST_F(SyncWorkerErrorsTest, ClosedWorkersTakeNothingAndAnswerWhatIsPending) {
  CreateSyncSession("s", 2);
  auto worker = OpenRank("s", 0);
  auto pending = worker->StartStep(layers_);
  ASSERT_TRUE(pending.ok());
  const auto open_steps = [&] { return Session("s").session().synchronous().open_steps(); };
  const absl::Time deadline = absl::Now() + kLong;
  while (open_steps() == 0) ASSERT_LT(absl::Now(), deadline);
  EXPECT_TRUE(worker->Close(kLong).ok());
  for (const absl::Status& status : {worker->Step(layers_).status(), worker->Flush(kLong), worker->Close(kLong)}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  worker.reset();
  EXPECT_TRUE(absl::IsFailedPrecondition(pending->Wait().status())) << "it outlives its worker";
  EXPECT_EQ(open_steps(), 1u) << "the contribution stays with the server";
}

TEST_F(SyncWorkerErrorsTest, AServerThatTakesNothingIsGivenUpAtTheDeadline) {
  CreateSyncSession("s", 1);
  const auto worker = OpenRank("s", 0);
  proxy_->SetAway(true);
  StepOptions options;
  options.deadline = absl::Now() + absl::Milliseconds(50);
  const auto away = worker->Step(layers_, options);
  EXPECT_TRUE(absl::IsDeadlineExceeded(away.status())) << away.status();
  EXPECT_EQ(worker->next_step(), 2u) << "it is contributed as soon as can be";
  proxy_->SetAway(false);
  const auto result = worker->Step(layers_, AtStep(1));
  EXPECT_TRUE(result.ok()) << result.status();
}

TEST_F(SyncWorkerErrorsTest, OtherWorkersMayNotFeedWhatNeedsSteps) {
  CreateSyncSession("s", 2);
  const auto worker = OpenWorker(FastWorker("s"));
  for (const std::string layer : {"ema", "mxnet", "learned"}) {
    EXPECT_EQ(GetReason(worker->Observe(layer, tensor_.view())), v1::ERROR_REASON_STEP_REQUIRED);
    EXPECT_EQ(GetReason(worker->SendRaw(layer, tensor_.view())), v1::ERROR_REASON_STEP_REQUIRED);
  }
  EXPECT_TRUE(worker->Observe("a", tensor_.view()).ok());
  EXPECT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").layer(), ElementsAre("a"));
}

}  // namespace
}  // namespace calib::client
