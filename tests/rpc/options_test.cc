#include "server/app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

namespace calib::server {
namespace {

using ::testing::HasSubstr;

std::variant<AppOptions, ExitNow> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "calibd");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data());
}

AppOptions Parsed(const std::vector<const char*>& arguments) {
  const std::variant<AppOptions, ExitNow> parsed = Parse(arguments);
  if (const auto* exit_now = std::get_if<ExitNow>(&parsed)) {
    ADD_FAILURE() << exit_now->text;
    return {};
  }
  return std::get<AppOptions>(parsed);
}

void ExpectUsageError(const std::vector<const char*>& arguments, const std::string& says) {
  const std::variant<AppOptions, ExitNow> parsed = Parse(arguments);
  const auto* const exit_now = std::get_if<ExitNow>(&parsed);
  ASSERT_NE(exit_now, nullptr) << says;
  EXPECT_EQ(exit_now->exit_code, 2);
  EXPECT_THAT(exit_now->text, HasSubstr(says));
  EXPECT_EQ(exit_now->text.find('\n'), exit_now->text.size() - 1) << "one line: " << exit_now->text;
}

TEST(OptionsTest, DefaultsAreTheDesigns) {
  const AppOptions options = Parsed({});
  EXPECT_EQ(options.grpc.listen.ToString(), "127.0.0.1:7070");
  ASSERT_TRUE(options.http.has_value());
  EXPECT_EQ(options.http->ToString(), "127.0.0.1:9464");
  EXPECT_EQ(options.engine.checkpoint_interval, absl::Seconds(1));
  EXPECT_EQ(options.drain_timeout, absl::Seconds(30));
  EXPECT_EQ(options.grpc.max_message_bytes, size_t{4} << 20);
  EXPECT_EQ(options.grpc.export_limits.max_input_bytes, uint64_t{256} << 20);
  EXPECT_FALSE(options.grpc.reflection);
}

TEST(OptionsTest, EveryKindOfOptionIsRead) {
  const AppOptions options = Parsed({"--listen",
                                     "[::1]:0",
                                     "--http",
                                     "",
                                     "--store",
                                     "memory",
                                     "--checkpoint-interval",
                                     "250ms",
                                     "--session-expiry",
                                     "720h",
                                     "--drain-timeout=2m",
                                     "--reflection",
                                     "--max-sessions",
                                     "5",
                                     "--max-message-bytes",
                                     "8MiB",
                                     "--max-export-input-bytes",
                                     "64MiB",
                                     "--max-export-bytes",
                                     "1GiB"});
  EXPECT_EQ(options.grpc.listen.host, "::1");
  EXPECT_FALSE(options.http.has_value());
  EXPECT_EQ(options.engine.checkpoint_interval, absl::Milliseconds(250));
  EXPECT_EQ(options.drain_timeout, absl::Minutes(2));
  EXPECT_EQ(options.engine.session_expiry, absl::Hours(720));
  EXPECT_EQ(options.store.rocksdb_path, "");
  EXPECT_TRUE(options.grpc.reflection);
  EXPECT_EQ(options.engine.limits.max_sessions, 5u);
  EXPECT_EQ(options.grpc.max_message_bytes, size_t{8} << 20);
  EXPECT_EQ(options.grpc.export_limits.max_input_bytes, uint64_t{64} << 20);
  EXPECT_EQ(options.grpc.export_limits.max_bytes, uint64_t{1} << 30);
}

TEST(OptionsTest, TheEnvironmentIsReadAndTheCommandLineOverridesIt) {
  setenv("CALIBD_MAX_LAYERS", "7", 1);
  setenv("CALIBD_DRAIN_TIMEOUT", "5s", 1);
  setenv("CALIBD_REFLECTION", "true", 1);
  EXPECT_EQ(Parsed({}).engine.limits.max_layers, 7u);
  EXPECT_EQ(Parsed({}).drain_timeout, absl::Seconds(5));
  EXPECT_TRUE(Parsed({}).grpc.reflection);
  EXPECT_EQ(Parsed({"--max-layers", "8"}).engine.limits.max_layers, 8u);
  setenv("CALIBD_MAX_LAYERS", "many", 1);
  ExpectUsageError({}, "many");
  for (const char* name : {"CALIBD_MAX_LAYERS", "CALIBD_DRAIN_TIMEOUT", "CALIBD_REFLECTION"}) unsetenv(name);
}

TEST(OptionsTest, TheStoreIsUnderTheDataDirectoryUnlessItIsNamed) {
  EXPECT_EQ(Parsed({}).store.rocksdb_path, "calibd-data/store");
  EXPECT_EQ(Parsed({"--data-dir", "/var/lib/calibd"}).store.rocksdb_path, "/var/lib/calibd/store");
  EXPECT_EQ(Parsed({"--store", "rocksdb:/srv/c", "--data-dir", "/x"}).store.rocksdb_path, "/srv/c");
  EXPECT_EQ(Parsed({"--store=rocksdb"}).store.rocksdb_path, "calibd-data/store");
  EXPECT_EQ(Parsed({}).engine.session_expiry, absl::InfiniteDuration());
}

TEST(OptionsTest, WrongUsageIsOneClearLine) {
  ExpectUsageError({"--no-such-option"}, "--no-such-option");
  ExpectUsageError({"--listen", "nonsense"}, "--listen");
  ExpectUsageError({"--http", "127.0.0.1:99999"}, "99999");
  ExpectUsageError({"--store", "rocksdb:"}, "memory");
  ExpectUsageError({"--store", "postgres:x"}, "rocksdb:PATH");
  ExpectUsageError({"--checkpoint-interval", "30"}, "30");
  ExpectUsageError({"--drain-timeout", "-1s"}, "-1s");
  ExpectUsageError({"--max-sessions", "0"}, "--max-sessions");
  ExpectUsageError({"--max-message-bytes", "1"}, "--max-message-bytes");
  ExpectUsageError({"--max-message-bytes", "8GiB"}, "--max-message-bytes");
}

TEST(OptionsTest, OffLoopbackNeedsInsecure) {
  ExpectUsageError({"--listen", "0.0.0.0:7070"}, "--insecure");
  EXPECT_EQ(Parsed({"--listen", "0.0.0.0:7070", "--insecure"}).grpc.listen.host, "0.0.0.0");
}

TEST(OptionsTest, HelpAndVersionExitWithZero) {
  for (const char* option : {"--help", "--version"}) {
    const std::variant<AppOptions, ExitNow> parsed = Parse({option});
    const auto* const exit_now = std::get_if<ExitNow>(&parsed);
    ASSERT_NE(exit_now, nullptr);
    EXPECT_EQ(exit_now->exit_code, 0);
    EXPECT_THAT(exit_now->text, HasSubstr("calibd"));
  }
}

}  // namespace
}  // namespace calib::server
