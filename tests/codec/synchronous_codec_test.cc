// Synchronous steps in a session's config.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "proto/codec/config_codec.h"
#include "proto/codec/error.h"

namespace calib {
namespace {

using ::testing::HasSubstr;

v1::SessionConfig Synchronous(uint32_t world_size, v1::StragglerPolicy policy = v1::STRAGGLER_POLICY_UNSPECIFIED) {
  v1::SessionConfig config;
  config.mutable_synchronous()->set_world_size(world_size);
  config.mutable_synchronous()->set_straggler_policy(policy);
  return config;
}

TEST(SynchronousCodecTest, NothingSetMeansEveryDefault) {
  EXPECT_FALSE(DecodeSessionConfig({})->synchronous.has_value());
  const absl::StatusOr<SessionConfig> config = DecodeSessionConfig(Synchronous(8));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->synchronous, (SynchronousOptions{.world_size = 8}));
  const v1::SynchronousOptions encoded = EncodeSessionConfig(*config).synchronous();
  EXPECT_EQ(encoded.straggler_policy(), v1::STRAGGLER_POLICY_WAIT);
  EXPECT_EQ(encoded.window(), 16u);
  EXPECT_FALSE(encoded.has_deadline());
  EXPECT_FALSE(EncodeSessionConfig(SessionConfig()).has_synchronous());
}

TEST(SynchronousCodecTest, OptionsSurviveTheRoundTrip) {
  std::mt19937_64 rng(32);
  for (int round = 0; round < 300; ++round) {
    SessionConfig config;
    config.synchronous.emplace();
    config.synchronous->world_size = 1 + static_cast<uint32_t>(rng() % 65536);
    config.synchronous->window = 1 + static_cast<uint32_t>(rng() % 256);
    config.synchronous->straggler_policy = static_cast<StragglerPolicy>(rng() % 3);
    if (config.synchronous->straggler_policy != StragglerPolicy::kWait) {
      config.synchronous->deadline = absl::Milliseconds(1) + absl::Nanoseconds(rng() % 1000) +
                                     absl::Microseconds(rng() % 5000000) + absl::Hours(rng() % 3);
    }
    const v1::SessionConfig message = EncodeSessionConfig(config);
    const absl::StatusOr<SessionConfig> decoded = DecodeSessionConfig(message);
    ASSERT_TRUE(decoded.ok()) << decoded.status() << message.ShortDebugString();
    EXPECT_EQ(*decoded, config) << message.ShortDebugString();
    EXPECT_EQ(EncodeSessionConfig(*decoded).SerializeAsString(), message.SerializeAsString());
  }
}

TEST(SynchronousCodecTest, EndsOfTheRangesAreTaken) {
  for (const uint32_t world_size : {1u, kMaxWorldSize}) EXPECT_TRUE(DecodeSessionConfig(Synchronous(world_size)).ok());
  for (const uint32_t window : {0u, 1u, kMaxStepWindow}) {
    v1::SessionConfig config = Synchronous(1);
    config.mutable_synchronous()->set_window(window);
    EXPECT_TRUE(DecodeSessionConfig(config).ok());
  }
  v1::SessionConfig config = Synchronous(1, v1::STRAGGLER_POLICY_FAIL);
  config.mutable_synchronous()->mutable_deadline()->set_nanos(1000000);
  EXPECT_EQ(DecodeSessionConfig(config)->synchronous->deadline, absl::Milliseconds(1));
  config.mutable_synchronous()->mutable_deadline()->set_seconds(315576000000);
  EXPECT_TRUE(DecodeSessionConfig(config).ok());
}

struct MalformedSynchronous {
  std::string field;    // after config.synchronous.
  std::string message;  // a part of it
  std::function<void(v1::SynchronousOptions*)> spoil;
};

TEST(SynchronousCodecTest, MalformedFieldsAreNamed) {
  const auto deadline = [](int64_t seconds, int32_t nanos) {
    return [=](v1::SynchronousOptions* options) {
      options->mutable_deadline()->set_seconds(seconds);
      options->mutable_deadline()->set_nanos(nanos);
    };
  };
  const std::vector<MalformedSynchronous> cases = {
      {"world_size", "0 ranks", [](auto* o) { o->set_world_size(0); }},
      {"world_size", "65537 ranks", [](auto* o) { o->set_world_size(65537); }},
      {"straggler_policy", "4", [](auto* o) { o->set_straggler_policy(static_cast<v1::StragglerPolicy>(4)); }},
      {"straggler_policy", "-1", [](auto* o) { o->set_straggler_policy(static_cast<v1::StragglerPolicy>(-1)); }},
      {"window", "257 open steps", [](auto* o) { o->set_window(257); }},
      {"deadline", "0 is less than a millisecond", [](auto* o) { o->clear_deadline(); }},
      {"deadline", "999.999us is less", deadline(0, 999999)},
      {"deadline", "-1 seconds", deadline(-1, 0)},
      {"deadline", "-1 nanoseconds", deadline(1, -1)},
      {"deadline", "1000000000 nanoseconds", deadline(1, 1000000000)},
      {"deadline", "315576000001 seconds", deadline(315576000001, 0)},
      {"deadline", "not for STRAGGLER_POLICY_WAIT",
       [](auto* o) { o->set_straggler_policy(v1::STRAGGLER_POLICY_WAIT); }},
      {"deadline", "not for STRAGGLER_POLICY_WAIT", [](auto* o) { o->clear_straggler_policy(); }},
  };
  for (const MalformedSynchronous& malformed : cases) {
    v1::SessionConfig config = Synchronous(4, v1::STRAGGLER_POLICY_CLOSE_PARTIAL);
    config.mutable_synchronous()->mutable_deadline()->set_seconds(30);
    ASSERT_TRUE(DecodeSessionConfig(config).ok());
    malformed.spoil(config.mutable_synchronous());
    const absl::Status status = DecodeSessionConfig(config).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << status << config.ShortDebugString();
    EXPECT_THAT(std::string(status.message()), HasSubstr(malformed.message));
    ASSERT_TRUE(GetErrorInfo(status).has_value());
    EXPECT_EQ(GetErrorInfo(status)->metadata().at("field"), "config.synchronous." + malformed.field);
  }
}

TEST(SynchronousCodecTest, PoliciesHaveNames) {
  for (const StragglerPolicy policy :
       {StragglerPolicy::kWait, StragglerPolicy::kFail, StragglerPolicy::kClosePartial}) {
    EXPECT_EQ(ParseStragglerPolicy(StragglerPolicyName(policy)).value(), policy);
  }
  const absl::Status status = ParseStragglerPolicy("drop").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("close_partial"));
}

}  // namespace
}  // namespace calib
