// Pushes of synchronous steps against a server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "client/cli/sync_push_run.h"
#include "tests/support/in_process_server.h"

namespace calib::cli {
namespace {

class SyncPushTest : public testing::Test {
 protected:
  SyncPushTest() {
    client_options_.server = server_.address();
    for (const std::string layer : {"fc1", "conv1"}) {
      auto source = OpenPushSource(layer + "=" + CALIB_GOLDEN_DIR "/digits_cnn/" + layer + ".npy");
      EXPECT_TRUE(source.ok()) << source.status();
      sources_.push_back(*std::move(source));
    }
  }

  void CreateSession(const std::string& name, uint32_t ranks) {
    v1::CreateSessionRequest request;
    request.set_session(name);
    const auto add_rule = [&](const std::string& pattern, v1::ObserverKind kind) {
      v1::LayerRule* const rule = request.mutable_config()->add_rules();
      rule->set_pattern(pattern);
      rule->mutable_observer()->set_kind(kind);
      return rule->mutable_observer();
    };
    add_rule("fc1", v1::OBSERVER_KIND_REFERENCE_HISTOGRAM)
        ->mutable_reference_histogram()
        ->set_rule(v1::REFERENCE_RULE_MXNET);
    add_rule("*", v1::OBSERVER_KIND_EMA)->mutable_ema()->set_convention(v1::EMA_CONVENTION_MEGENGINE);
    request.mutable_config()->mutable_synchronous()->set_world_size(ranks);
    client::Client client(client_options_);
    const auto response = client.CreateSession(request);
    ASSERT_TRUE(response.ok()) << response.status();
  }
  SyncPushOptions Options(const std::string& session, uint32_t ranks) const {
    SyncPushOptions options;
    options.session = session;
    options.ranks = ranks;
    options.own_ranks.resize(ranks);
    std::iota(options.own_ranks.begin(), options.own_ranks.end(), 0);
    return options;
  }
  std::string Statistics(const std::string& session) {
    client::Client client(client_options_);
    v1::GetStatisticsRequest request;
    request.set_session(session);
    const auto response = client.GetStatistics(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->SerializeAsString() : "";
  }

  calib::test::InProcessServer server_;
  client::ClientOptions client_options_;
  std::vector<PushSource> sources_;
};

constexpr absl::Duration kPatience = absl::Seconds(60);

TEST_F(SyncPushTest, RanksTogetherGiveWhatOneGives) {
  uint64_t bytes = 0;
  for (const uint32_t ranks : {1u, 3u}) {
    const std::string session = "ranks" + std::to_string(ranks);
    CreateSession(session, ranks);
    SyncPushRun run(client_options_, Options(session, ranks), sources_);
    ASSERT_TRUE(run.WaitDone(kPatience));
    ASSERT_TRUE(run.status().ok()) << run.status();
    EXPECT_EQ(run.totals().first_step, 1u);
    EXPECT_EQ(run.totals().last_step, 6u);
    EXPECT_EQ(run.steps(), 6u);
    EXPECT_EQ(run.totals().not_counted, 0u);
    EXPECT_EQ(run.done_bytes(), run.total_bytes());
    EXPECT_EQ(run.totals().bytes, run.total_bytes());
    if (bytes != 0) {
      EXPECT_EQ(run.totals().bytes, bytes);
    }
    bytes = run.totals().bytes;
  }
  EXPECT_EQ(Statistics("ranks1"), Statistics("ranks3"));
}

TEST_F(SyncPushTest, ProcessesOfOneRankEachGoOnWhereTheSessionIs) {
  CreateSession("s", 2);
  CreateSession("expected", 1);
  // A first push, of fewer steps.
  std::vector<PushSource> half;
  for (PushSource& source : sources_) {
    auto again = OpenPushSource(source.layer + "=" + source.file.path());
    again->steps = 3;
    half.push_back(*std::move(again));
  }
  for (const auto* const sources : {&half, &sources_}) {
    SyncPushOptions options = Options("s", 2);
    options.own_ranks = {0};
    SyncPushRun first(client_options_, options, *sources);
    options.own_ranks = {1};
    SyncPushRun second(client_options_, options, *sources);
    for (SyncPushRun* const run : {&first, &second}) {
      ASSERT_TRUE(run->WaitDone(kPatience));
      ASSERT_TRUE(run->status().ok()) << run->status();
      EXPECT_EQ(run->totals().first_step, sources == &half ? 1u : 4u);
      EXPECT_EQ(run->done_bytes(), run->total_bytes());
    }
  }
  SyncPushRun nothing_left(client_options_, Options("s", 2), sources_);
  ASSERT_TRUE(nothing_left.WaitDone(kPatience));
  EXPECT_TRUE(nothing_left.status().ok());
  EXPECT_EQ(nothing_left.totals().first_step, 0u);
  SyncPushRun expected(client_options_, Options("expected", 1), sources_);
  ASSERT_TRUE(expected.WaitDone(kPatience));
  EXPECT_EQ(Statistics("s"), Statistics("expected"));
}

TEST_F(SyncPushTest, ARankThatIsMissingIsNamed) {
  CreateSession("s", 3);
  SyncPushOptions options = Options("s", 3);
  options.own_ranks = {0, 2};
  options.timeout = absl::Milliseconds(200);
  SyncPushRun run(client_options_, options, sources_);
  ASSERT_TRUE(run.WaitDone(kPatience));
  EXPECT_TRUE(absl::IsDeadlineExceeded(run.status())) << run.status();
  EXPECT_THAT(std::string(run.status().message()), testing::HasSubstr("waiting for rank 1"));
}

TEST_F(SyncPushTest, AWorldOfAnotherSizeEndsThePush) {
  CreateSession("s", 2);
  SyncPushOptions options = Options("s", 2);
  options.own_ranks = {0};
  SyncPushRun run(client_options_, options, sources_);
  client::Client client(client_options_);
  v1::GetSessionRequest get;
  get.set_session("s");
  const absl::Time deadline = absl::Now() + kPatience;
  while (client.GetSession(get)->session().synchronous().open_steps() == 0) ASSERT_LT(absl::Now(), deadline);
  v1::SetWorldRequest request;
  request.set_session("s");
  request.set_expected_epoch(1);
  request.set_world_size(3);
  ASSERT_TRUE(client.SetWorld(request).ok());
  ASSERT_TRUE(run.WaitDone(kPatience));
  EXPECT_TRUE(absl::IsFailedPrecondition(run.status())) << run.status();
  EXPECT_THAT(std::string(run.status().message()), testing::HasSubstr("push again with --ranks 3"));
}

TEST_F(SyncPushTest, StoppingEndsTheWait) {
  CreateSession("s", 2);
  SyncPushOptions options = Options("s", 2);
  options.own_ranks = {0};
  SyncPushRun run(client_options_, options, sources_);
  run.Stop();
  ASSERT_TRUE(run.WaitDone(kPatience));
  EXPECT_TRUE(run.status().ok()) << run.status();
  EXPECT_EQ(run.totals().first_step, 0u);
}

}  // namespace
}  // namespace calib::cli
