// What refuses steps, and what goes on then.
#include "client/cpp/worker.h"
#include "proto/codec/error.h"
#include "tests/client/steps_fixture.h"

namespace calib::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StepRefusalTest : public StepsFixture {};

TEST_F(StepRefusalTest, ASecondWorkerOfAReferenceHistogramIsRefusedAndOtherLayersGoOn) {
  CreateStepSession("s");
  const auto first = OpenWorker(FastWorker("s"));
  const auto second = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(first->Observe("mxnet.*", Vector({1, -1}).view()).ok());
  ASSERT_TRUE(first->Flush(kLong).ok());
  // It begins with the server's state, and widens it behind the first one's back.
  ASSERT_TRUE(second->Observe("mxnet.*", Vector({5}).view()).ok());
  ASSERT_TRUE(second->Flush(kLong).ok());

  ASSERT_TRUE(first->Observe("mxnet.*", Vector({2, 2}).view()).ok());
  ASSERT_TRUE(first->Observe("mxnet.a", Vector({3}).view()).ok());
  ASSERT_TRUE(first->Observe("a", Vector({4}).view()).ok());
  const absl::Status flushed = first->Flush(kLong);
  EXPECT_EQ(GetReason(flushed), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH) << flushed;
  EXPECT_THAT(std::string(flushed.message()), HasSubstr("layer \"mxnet.*\""));
  EXPECT_EQ(GetReason(first->Observe("mxnet.*", Vector({1}).view())), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  for (const std::string layer : {"mxnet.a", "a", "ema"}) {
    const absl::Status status = first->Observe(layer, Vector({3, 9}).view());
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(GetReason(first->Close(kLong)), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH);
  EXPECT_EQ(first->stats().values_refused, 2u);
  ASSERT_TRUE(second->Observe("mxnet.*", Vector({6}).view()).ok());
  EXPECT_TRUE(second->Close(kLong).ok());
  const v1::GetStatisticsResponse statistics = Statistics("s");
  EXPECT_THAT(statistics.layer(), ElementsAre("a", "ema", "mxnet.*", "mxnet.a"));
  EXPECT_THAT(statistics.statistics().count(), ElementsAre(3, 2, 2 + 1 + 1, 3));
}

TEST_F(StepRefusalTest, AHistogramThatWouldGrowTooLargeRefusesTheStepAlone) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  Expected expected;
  for (const float width : {1.0f, 1.5f}) {
    ASSERT_TRUE(worker->Observe("small", Vector({width}).view()).ok());
    expected.Fold("small", Vector({width}));
    const absl::Status outlier = worker->Observe("small", Vector({100}).view());
    EXPECT_EQ(GetReason(outlier), v1::ERROR_REASON_REFERENCE_TOO_LARGE) << outlier;
    EXPECT_TRUE(absl::IsResourceExhausted(outlier));
    EXPECT_THAT(std::string(outlier.message()), HasSubstr("layer \"small\""));
  }
  ASSERT_TRUE(worker->Close(kLong).ok()) << "nothing that was sent was refused";
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

TEST_F(StepRefusalTest, AStepThatFitsIntoNoMessageIsRefusedBeforeItIsSent) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  Expected expected;
  ASSERT_TRUE(worker->Observe("wide", Vector({1}).view()).ok());
  expected.Fold("wide", Vector({1}));
  // 60 times as wide: 480,000 bins, which the histogram may have.
  const absl::Status outlier = worker->Observe("wide", Vector({60}).view());
  EXPECT_EQ(GetReason(outlier), v1::ERROR_REASON_REFERENCE_TOO_LARGE) << outlier;
  EXPECT_THAT(std::string(outlier.message()), HasSubstr("a message takes up to"));
  for (const float width : {30.0f, 2.0f}) {
    ASSERT_TRUE(worker->Observe("wide", Vector({width}).view()).ok());
    expected.Fold("wide", Vector({width}));
  }
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

TEST_F(StepRefusalTest, AfterItsObserverWasDisabledALayerNeedsAWorkerOpenedAnew) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  const auto enable = [&](bool enabled) {
    v1::SetObserversEnabledRequest request;
    request.set_session("s");
    request.set_pattern("*");
    request.set_enabled(enabled);
    EXPECT_TRUE(client_->SetObserversEnabled(request).ok());
  };
  Expected expected;
  ASSERT_TRUE(worker->Observe("mxnet", Vector({1}).view()).ok());
  expected.Fold("mxnet", Vector({1}));
  ASSERT_TRUE(worker->Flush(kLong).ok());
  enable(false);
  ASSERT_TRUE(worker->Observe("mxnet", Vector({5}).view()).ok());
  ASSERT_TRUE(worker->Flush(kLong).ok());
  enable(true);
  ASSERT_TRUE(worker->Observe("mxnet", Vector({2}).view()).ok());
  const absl::Status status = worker->Close(kLong);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_REFERENCE_GRID_MISMATCH) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disabled meanwhile"));
  const auto anew = OpenWorker(FastWorker("s"));
  ASSERT_TRUE(anew->Observe("mxnet", Vector({2}).view()).ok());
  expected.Fold("mxnet", Vector({2}));
  ASSERT_TRUE(anew->Close(kLong).ok());
  EXPECT_EQ(Statistics("s").SerializeAsString(), expected.Bytes());
}

TEST_F(StepRefusalTest, ChannelsMustStay) {
  CreateStepSession("s");
  const auto worker = OpenWorker(FastWorker("s"));
  const Tensor three{{1, 3}, {1, 2, 3}};
  const Tensor two{{1, 2}, {1, 2}};
  ASSERT_TRUE(worker->Observe("ema.channels", three.view()).ok());
  EXPECT_EQ(GetReason(worker->Observe("ema.channels", two.view())), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_TRUE(absl::IsInvalidArgument(worker->Observe("ema.channels", Vector({1}).view())));
  EXPECT_EQ(GetReason(worker->Observe("", three.view())), v1::ERROR_REASON_LAYER_NAME_INVALID);
  ASSERT_TRUE(worker->Close(kLong).ok());
  EXPECT_THAT(Statistics("s").statistics().count(), ElementsAre(1, 1, 1));
}

TEST_F(StepRefusalTest, SetQParamsSetsPassiveLayers) {
  CreateStepSession("s");
  v1::SetQParamsRequest request;
  request.set_session("s");
  request.set_layer("passive");
  request.add_scale(0.5f);
  request.add_zero_point(3);
  const auto set = client_->SetQParams(request);
  ASSERT_TRUE(set.ok()) << set.status();
  v1::ComputeQParamsRequest compute;
  compute.set_session("s");
  const auto answer = client_->ComputeQParams(compute);
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->layer_size(), 1);
  EXPECT_THAT(answer->layer(0).scale(), ElementsAre(0.5f));
  EXPECT_THAT(answer->layer(0).zero_point(), ElementsAre(3));
  request.set_layer("mxnet");
  const absl::Status refused = client_->SetQParams(request).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(GetReason(refused), v1::ERROR_REASON_LAYER_NOT_PASSIVE);
}

}  // namespace
}  // namespace calib::client
