// Wrong usage, wrong names, wrong configs, absent servers: each a clear error with its exit code, and a server that
// keeps what it had.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class BadInputTest : public testing::Test {
 protected:
  BadInputTest() {
    CalibctlOk(server_.address(), {"session", "create", "kept", "--mantissa-bits", "6"});
    CalibctlOk(server_.address(), {"push", "kept", "fc1=" + GoldenFile("fc1")});
    before_ = State();
  }
  ~BadInputTest() override { EXPECT_EQ(State(), before_) << "a refused request changed the server"; }

  std::string State() {
    return CalibctlOk(server_.address(), {"--json", "qparams", "kept", "--method", "mse"}) +
           CalibctlOk(server_.address(), {"session", "list", "--json"});
  }
  void Expect(int exit_code, const std::vector<std::string>& arguments, const testing::Matcher<std::string>& message) {
    const ProcessResult result = Calibctl(server_.address(), arguments);
    SCOPED_TRACE(absl::StrJoin(arguments, " "));
    EXPECT_EQ(result.exit_code, exit_code);
    EXPECT_THAT(result.err, AllOf(StartsWith("calibctl: "), message));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  }
  void ExpectRefused(const std::vector<std::string>& arguments, const testing::Matcher<std::string>& message) {
    Expect(1, arguments, message);
  }
  void ExpectUsageError(const std::vector<std::string>& arguments, const testing::Matcher<std::string>& message) {
    Expect(2, arguments, message);
  }

  Server server_;
  TemporaryFolder folder_;
  std::string before_;
};

TEST_F(BadInputTest, UnknownNames) {
  const std::string fc1 = "fc1=" + GoldenFile("fc1");
  const auto unknown = AllOf(HasSubstr("nosuch"), HasSubstr("[SESSION_NOT_FOUND]"));
  ExpectRefused({"push", "nosuch", fc1}, unknown);
  ExpectRefused({"qparams", "nosuch"}, unknown);
  ExpectRefused({"compare", "nosuch"}, unknown);
  ExpectRefused({"watch", "nosuch"}, unknown);
  ExpectRefused({"session", "show", "nosuch"}, unknown);
  ExpectRefused({"session", "seal", "nosuch"}, unknown);
  ExpectRefused({"session", "delete", "nosuch"}, unknown);
  ExpectRefused({"session", "disable", "nosuch", "*"}, unknown);
  ExpectRefused({"qparams", "kept", "conv9*"}, AllOf(HasSubstr("conv9*"), HasSubstr("[LAYER_NOT_FOUND]")));
  ExpectRefused({"session", "create", "no/slash"}, AllOf(HasSubstr("no/slash"), HasSubstr("[INVALID_FIELD]")));
}

TEST_F(BadInputTest, LayerNames) {
  CalibctlOk(server_.address(), {"session", "create", "names"});
  const std::string file = absl::StrCat("=", GoldenFile("fc1"));
  ExpectRefused({"push", "names", absl::StrCat(std::string(513, 'x'), file)},
                AllOf(HasSubstr("512"), HasSubstr("[LAYER_NAME_INVALID]")));
  ExpectRefused({"push", "names", absl::StrCat("\xff\xfe", file)}, HasSubstr("[LAYER_NAME_INVALID]"));
  EXPECT_EQ(CalibctlJson(server_.address(), {"session", "show", "names"}).at("layer_count"), 0);
  // One byte less is fine, and so is what needs care on the way: quotes, blanks, control characters.
  CalibctlOk(server_.address(),
             {"push", "names", absl::StrCat(std::string(512, 'x'), file), absl::StrCat("a \"b\"\n\x1b[31m\\", file)});
  const Json layers = CalibctlJson(server_.address(), {"qparams", "names"}).at("layers");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].at("layer"), "a \"b\"\n\x1b[31m\\");
  EXPECT_THAT(CalibctlOk(server_.address(), {"qparams", "names"}), testing::Not(HasSubstr("\x1b")));
  CalibctlOk(server_.address(), {"session", "delete", "names"});
}

TEST_F(BadInputTest, ConfigMismatch) {
  ExpectRefused({"session", "create", "kept"}, AllOf(HasSubstr("kept"), HasSubstr("[SESSION_CONFIG_MISMATCH]")));
  ExpectRefused({"session", "create", "kept", "--observer", "minmax", "--mantissa-bits", "6"},
                HasSubstr("[SESSION_CONFIG_MISMATCH]"));
  EXPECT_EQ(CalibctlOk(server_.address(), {"session", "create", "kept", "--mantissa-bits", "6"}),
            "session kept exists with an equal config\n");
}

TEST_F(BadInputTest, ConfigFiles) {
  const auto create = [&](const std::string& text) {
    return std::vector<std::string>{"session", "create", "c", "--config", folder_.Write("c.json", text)};
  };
  ExpectRefused(create("{"), AllOf(HasSubstr("c.json"), HasSubstr("not a session config in JSON")));
  ExpectRefused(create("{\"rulez\": []}"), AllOf(HasSubstr("c.json"), HasSubstr("rulez")));
  ExpectRefused(create("{\"mantissa_bits\": 3}"), AllOf(HasSubstr("mantissa_bits"), HasSubstr("[INVALID_FIELD]")));
  ExpectRefused(create("{\"rules\": [{\"pattern\": \"*\", \"observer\": {\"kind\": \"EMA\"}}]}"), HasSubstr("c.json"));
  ExpectRefused({"session", "create", "c", "--config", "/nowhere.json"}, HasSubstr("/nowhere.json"));
}

TEST_F(BadInputTest, LayersThatCannotBeAnswered) {
  CalibctlOk(server_.address(), {"session", "create", "mixed", "--config", folder_.Write("mixed.json", R"({"rules": [
                                     {"pattern": "range*", "observer": {"kind": "OBSERVER_KIND_MINMAX"}},
                                     {"pattern": "skipped", "skip": true},
                                     {"pattern": "*", "observer": {"kind": "OBSERVER_KIND_HISTOGRAM"}}]})")});
  const std::string nan = folder_.Write("nan.npy", NpyText("<f4", "(2,)", FloatBytes({NAN, INFINITY})));
  const ProcessResult push =
      Calibctl(server_.address(), {"push", "mixed", "empty=" + nan, "range=" + GoldenFile("fc1"),
                                   "skipped=" + GoldenFile("fc1"), "whole=" + GoldenFile("fc1")});
  EXPECT_EQ(push.exit_code, 0);
  EXPECT_EQ(push.err, "calibctl: session mixed skips layer skipped: not pushed\n");

  // Some answers: exit code 0.
  const Json layers = CalibctlJson(server_.address(), {"qparams", "mixed", "--method", "mse"}).at("layers");
  ASSERT_EQ(layers.size(), 3u);
  EXPECT_EQ(layers[0].at("error").at("reason"), "LAYER_EMPTY");
  EXPECT_EQ(layers[1].at("error").at("reason"), "METHOD_NEEDS_HISTOGRAM");
  EXPECT_FALSE(layers[1].contains("scale"));
  EXPECT_FALSE(layers[2].contains("error"));
  // Without a histogram there is no expected error.
  const Json range = CalibctlJson(server_.address(), {"qparams", "mixed", "range"}).at("layers")[0];
  EXPECT_TRUE(range.at("mse").is_null());
  EXPECT_TRUE(range.at("sqnr_db").is_null());
  EXPECT_TRUE(range.at("clipped").is_null());
  // None: exit code 1, and the JSON says why all the same.
  const ProcessResult none = Calibctl(server_.address(), {"--json", "qparams", "mixed", "empty"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, AllOf(StartsWith("calibctl: no layer has qparams; empty: "), HasSubstr("[LAYER_EMPTY]")));
  EXPECT_EQ(Json::parse(none.out).at("layers")[0].at("error").at("reason"), "LAYER_EMPTY");
  CalibctlOk(server_.address(), {"session", "delete", "mixed"});
}

TEST_F(BadInputTest, SealedAndDisabled) {
  CalibctlOk(server_.address(), {"session", "create", "s"});
  const std::string fc1 = "fc1=" + GoldenFile("fc1");
  CalibctlOk(server_.address(), {"session", "disable", "s", "fc*"});
  EXPECT_EQ(CalibctlJson(server_.address(), {"push", "s", fc1}).at("values_ignored"), 6 * 32 * 64);
  CalibctlOk(server_.address(), {"session", "enable", "s", "fc*"});
  EXPECT_EQ(CalibctlJson(server_.address(), {"push", "s", fc1}).at("values_ignored"), 0);
  CalibctlOk(server_.address(), {"session", "seal", "s"});
  ExpectRefused({"push", "s", fc1}, HasSubstr("session 's' is sealed"));
  CalibctlOk(server_.address(), {"session", "delete", "s"});
}

TEST_F(BadInputTest, ChannelAxisOutsideTheTensor) {
  CalibctlOk(server_.address(), {"session", "create", "s", "--channel-axis", "3"});
  ExpectRefused({"push", "s", "fc1=" + GoldenFile("fc1")}, AllOf(HasSubstr("fc1"), HasSubstr("axis")));
  CalibctlOk(server_.address(), {"session", "delete", "s"});
}

TEST_F(BadInputTest, Usage) {
  ExpectUsageError({}, HasSubstr("--help"));
  ExpectUsageError({"frobnicate"}, HasSubstr("frobnicate"));
  ExpectUsageError({"session"}, HasSubstr("command"));
  ExpectUsageError({"session", "frobnicate"}, HasSubstr("frobnicate"));
  ExpectUsageError({"session", "list", "--rule", "mxnet"}, HasSubstr("--rule"));
  ExpectUsageError({"push", "kept"}, HasSubstr("LAYER=FILE.npy"));
  ExpectUsageError({"push", "kept", "no-equals-sign"}, HasSubstr("'no-equals-sign' is not LAYER=FILE.npy"));
  ExpectUsageError({"push", "kept", "a=b", "--ranks", "0"}, HasSubstr("--ranks"));
  ExpectUsageError({"qparams", "kept", "--method", "entropyy"}, AllOf(HasSubstr("entropyy"), HasSubstr("percentile")));
  ExpectUsageError({"qparams", "kept", "--dtype", "int99"}, AllOf(HasSubstr("int99"), HasSubstr("int32")));
  ExpectUsageError({"qparams", "kept", "--preset", "caffe"}, AllOf(HasSubstr("caffe"), HasSubstr("tensorrt")));
  ExpectUsageError({"qparams", "kept", "--affine", "--symmetric"}, HasSubstr("--affine"));
  ExpectUsageError({"qparams", "kept", "--percentile", "99"}, HasSubstr("needs the method percentile"));
  ExpectUsageError({"qparams", "kept", "--method", "percentile", "--percentile", "101"}, HasSubstr("101"));
  ExpectUsageError({"compare", "kept", "--dtype", "int8,int99"}, HasSubstr("int99"));
  ExpectUsageError({"session", "create", "s", "--mantissa-bits", "8"}, HasSubstr("--mantissa-bits"));
  ExpectUsageError({"session", "create", "s", "--observer", "mean"}, AllOf(HasSubstr("mean"), HasSubstr("minmax")));
  ExpectUsageError({"session", "create", "s", "--observer", "minmax", "--ema-weight", "0.5"},
                   HasSubstr("needs --observer ema"));
  ExpectUsageError({"session", "create", "s", "--observer", "ema", "--reference-bins", "9"},
                   HasSubstr("needs --observer reference_histogram"));
  ExpectUsageError({"session", "create", "s", "--observer", "learned"}, HasSubstr("needs --world-size"));
  ExpectUsageError({"qparams", "kept", "--qmin", "-3"}, HasSubstr("--qmax"));
  ExpectUsageError({"qparams", "kept", "--norm", "3"}, HasSubstr("needs the method mse"));
  ExpectUsageError({"qparams", "kept", "--method", "mse", "--norm", "0.5"}, HasSubstr("0.5"));
  ExpectUsageError({"qparams", "kept", "--method", "entropy", "--entropy-variant", "glow"}, HasSubstr("mxnet"));
  ExpectUsageError({"health", "--timeout", "-1"}, HasSubstr("--timeout"));
}

TEST_F(BadInputTest, SpecThatContradictsItsPreset) {
  ExpectRefused({"qparams", "kept", "--preset", "tensorrt", "--affine"}, HasSubstr("tensorrt"));
  ExpectRefused({"qparams", "kept", "--dtype", "fp8_e4m3", "--affine"}, HasSubstr("fp8_e4m3"));
  ExpectRefused({"qparams", "kept", "--qmin", "-300", "--qmax", "0"}, HasSubstr("-300"));
  ExpectRefused({"qparams", "kept", "--qmin", "-3", "--qmax", "3", "--narrow"}, HasSubstr("narrow"));
}

// The other methods and specs of a comparison stand, so that each layer says it for itself.
TEST_F(BadInputTest, SpecThatTheMethodCannotAnswer) {
  for (const auto& [options, why] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--dtype", "fp8_e5m2", "--method", "entropy"}, "fp8_e5m2"},
           {{"--affine", "--method", "lsq"}, "symmetric"}}) {
    const ProcessResult result = Calibctl(server_.address(), Join({"qparams", "kept"}, options));
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, AllOf(HasSubstr("[SPEC_INVALID]"), HasSubstr(why)));
  }
}

TEST(AbsentServerTest, EveryCommandSaysSoAtOnce) {
  std::string address;
  {
    const Server server;
    address = server.address();
  }
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"health"},
                                             {"session", "list"},
                                             {"push", "s", "fc1=" + GoldenFile("fc1")},
                                             {"qparams", "s"},
                                             {"watch", "s"}}) {
    const ProcessResult result = RunProcess(CalibctlCommand(address, command), {}, absl::Seconds(20));
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, AllOf(StartsWith("calibctl: "), HasSubstr(address)));
  }
}

TEST(AbsentServerTest, AddressFromTheEnvironment) {
  const Server server;
  const ProcessResult result = RunProcess({CALIB_BIN_DIR "/calibctl", "health"}, {"CALIBD_SERVER=" + server.address()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST(PortTest, TakenPortIsAClearError) {
  const Server server;
  const ProcessResult grpc =
      RunProcess({CALIB_BIN_DIR "/calibd", "--store", "memory", "--listen", server.address(), "--http", ""}, {},
                 absl::Seconds(20));
  EXPECT_EQ(grpc.exit_code, 1);
  EXPECT_THAT(grpc.err, HasSubstr(server.address()));
  const ProcessResult http =
      RunProcess({CALIB_BIN_DIR "/calibd", "--store", "memory", "--listen", "127.0.0.1:0", "--http", server.http()}, {},
                 absl::Seconds(20));
  EXPECT_EQ(http.exit_code, 1);
  EXPECT_THAT(http.err, HasSubstr(server.http()));
  CalibctlOk(server.address(), {"health"});
}

}  // namespace
}  // namespace calib::test
