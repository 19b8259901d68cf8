// Layers whose parameters are set from outside.

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/codec/error.h"
#include "tests/engine/engine_fixture.h"

namespace calib::server::test {
namespace {

using ::testing::HasSubstr;

class PassiveTest : public EngineFixture {
 protected:
  void SetUp() override {
    options_.limits.max_layers = 5;
    options_.limits.max_channels = 3;
    options_.limits.max_layer_name_bytes = 20;
    Start();
    session_ = CreateSession();
  }
  std::vector<QParams> Params(const std::string& layer) {
    std::vector<QParams> params;
    const auto snapshot = (*engine_->FindSession("s"))->GetLayer(layer);
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    if (!snapshot.ok()) return params;
    for (const ChannelStatistics& channel : snapshot->statistics.channels()) params.push_back(*channel.passive);
    return params;
  }
  // The reason for which it is refused; nothing may have changed.
  v1::ErrorReason Refused(const std::string& layer, const std::vector<QParams>& params, const std::string& field = "") {
    const std::string before = Describe(*session_);
    const uint64_t version = session_->GetSummary().version;
    const absl::Status status = session_->SetQParams(layer, params);
    EXPECT_EQ(status.code(), CodeOfReason(GetReason(status))) << status;
    EXPECT_EQ(Describe(*session_), before);
    EXPECT_EQ(session_->GetSummary().version, version);
    if (!field.empty()) {
      EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), field);
    }
    return GetReason(status);
  }
  static bool Same(const std::vector<QParams>& a, const std::vector<QParams>& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i].scale != b[i].scale || a[i].zero_point != b[i].zero_point) return false;
    }
    return true;
  }
  std::shared_ptr<Session> session_;
};

TEST_F(PassiveTest, ParametersReplaceEarlierOnes) {
  ASSERT_TRUE(session_->SetQParams("passive", {{0.5f, 3}}).ok());
  EXPECT_TRUE(Same(Params("passive"), {{0.5f, 3}}));
  const uint64_t version = session_->GetSummary().version;
  ASSERT_TRUE(session_->SetQParams("passive", {{0.25f, 0}, {1, -7}, {3, 1}}).ok());
  EXPECT_TRUE(Same(Params("passive"), {{0.25f, 0}, {1, -7}, {3, 1}}));
  EXPECT_GT(session_->GetSummary().version, version) << "who watches must see it";
  EXPECT_THAT(session_->ListLayers("*", "", 10, version), ::testing::ElementsAre("passive"));
  EXPECT_EQ(session_->GetSummary().layer_count, 1u);
}

TEST_F(PassiveTest, RefusalsChangeNothing) {
  ASSERT_TRUE(session_->SetQParams("passive", {{0.5f, 3}}).ok());
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Refused("", {{1, 0}}), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(Refused("passive\xc3(", {{1, 0}}), v1::ERROR_REASON_LAYER_NAME_INVALID);
  EXPECT_EQ(Refused("skipped", {{1, 0}}), v1::ERROR_REASON_LAYER_SKIPPED);
  EXPECT_EQ(Refused("h", {{1, 0}}), v1::ERROR_REASON_LAYER_NOT_PASSIVE);
  EXPECT_EQ(Refused("ema", {{1, 0}}), v1::ERROR_REASON_LAYER_NOT_PASSIVE);
  EXPECT_EQ(Refused("reference", {{1, 0}}), v1::ERROR_REASON_LAYER_NOT_PASSIVE);
  EXPECT_EQ(Refused("passive", {}, "scale"), v1::ERROR_REASON_INVALID_FIELD);
  for (const float scale : {0.0f, -0.0f, -1.0f, kInf, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_EQ(Refused("passive", {{1, 0}, {scale, 0}}, "scale[1]"), v1::ERROR_REASON_INVALID_FIELD) << scale;
  }
  EXPECT_EQ(Refused("passive", {{1, 0}, {1, 0}, {1, 0}, {1, 0}}), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_EQ(Refused("passive.with.a.long.name", {{1, 0}}), v1::ERROR_REASON_LIMIT_EXCEEDED);
  for (const std::string layer : {"passive.2", "passive.3", "passive.4", "passive.5"}) {
    ASSERT_TRUE(session_->SetQParams(layer, {{1, 0}}).ok());
  }
  EXPECT_EQ(Refused("passive.6", {{1, 0}}), v1::ERROR_REASON_LIMIT_EXCEEDED);
  EXPECT_TRUE(session_->SetQParams("passive.2", {{2, 0}}).ok()) << "known layers go on";
  ASSERT_TRUE(Seal(session_.get()).ok());
  EXPECT_EQ(Refused("passive", {{1, 0}}), v1::ERROR_REASON_SESSION_SEALED);
  ASSERT_TRUE(engine_->DeleteSession("s").ok());
  EXPECT_EQ(GetReason(session_->SetQParams("passive", {{1, 0}})), v1::ERROR_REASON_SESSION_DELETED);
}

TEST_F(PassiveTest, DataIsRefused) {
  ASSERT_TRUE(session_->SetQParams("passive", {{0.5f, 3}}).ok());
  TestStream stream = Open();
  ASSERT_TRUE(stream.Send(RegisterRequest(4, {"passive"})).ok());
  const std::string before = Describe(*session_);
  for (const v1::ObserveRequest& request :
       {TensorRequest(1, 1, 4, {1, 2}, {2}), StatisticsRequest(1, 1, {{4, Observe(kMinMaxConfig, {1})}})}) {
    const absl::Status status = stream.Send(request);
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_OBSERVER_MISMATCH) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("SetQParams"));
    EXPECT_FALSE(ObserveStream::EndsStream(status));
  }
  EXPECT_EQ(Describe(*session_), before);
}

TEST_F(PassiveTest, WhatIsDurableOutlivesACrash) {
  ASSERT_TRUE(session_->SetQParams("passive", {{0.5f, 3}, {2, -1}}).ok());
  Event durable;
  engine_->WhenDurable(session_, [&](const absl::StatusOr<uint64_t>& updates) {
    EXPECT_TRUE(updates.ok()) << updates.status();
    durable.Set();
  });
  ASSERT_TRUE(durable.Wait());
  ASSERT_TRUE(session_->SetQParams("passive", {{7, 7}}).ok());  // and is not made durable
  session_.reset();
  Start();
  EXPECT_TRUE(Same(Params("passive"), {{0.5f, 3}, {2, -1}}));
  session_ = *engine_->FindSession("s");
  ASSERT_TRUE(session_->SetQParams("passive", {{9, 0}}).ok());
  ASSERT_TRUE(engine_->Checkpoint().ok());
  session_.reset();
  Start();
  EXPECT_TRUE(Same(Params("passive"), {{9, 0}}));
}

TEST_F(PassiveTest, AFailedCommitIsToldToWhoWaits) {
  ASSERT_TRUE(session_->SetQParams("passive", {{0.5f, 3}}).ok());
  store_.FailCommits(absl::InternalError("injected"));
  Event done;
  absl::Status told;
  engine_->WhenDurable(session_, [&](const absl::StatusOr<uint64_t>& updates) {
    told = updates.status();
    done.Set();
  });
  ASSERT_TRUE(done.Wait());
  EXPECT_EQ(GetReason(told), v1::ERROR_REASON_STORE_FAILED) << told;
}

}  // namespace
}  // namespace calib::server::test
