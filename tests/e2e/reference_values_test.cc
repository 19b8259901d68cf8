// The frameworks' own numbers, asked for by command line: every observer that depends on order, pushed step by step as
// statistics and raw, against what the frameworks computed from the golden layers.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

// An entry's scale and zero point, which is a list of one in PyTorch's.
double FirstNumber(const Json& value) {
  if (value.is_null()) return 0;  // MegEngine's symmetric zero point
  return value.is_array() ? value.at(0).get<double>() : value.get<double>();
}

struct ReferenceCase {
  const char* framework;  // key of a layer in expected.json
  const char* observer;   // its first part of an entry's key
  std::vector<std::string> create;
  const char* method;
  const char* preset;
  int entries;  // of all layers that are no error
};

// "qint8_narrow/symmetric" or "quint8/affine" as options of calibctl.
std::vector<std::string> SpecOptions(const std::string& type_and_scheme) {
  const size_t slash = type_and_scheme.find('/');
  std::string type = type_and_scheme.substr(0, slash);
  std::vector<std::string> options;
  if (type == "qint8_narrow") {
    options.push_back("--narrow");
    type = "qint8";
  }
  options.insert(options.end(), {"--dtype", type.substr(1)});  // without the q
  if (type_and_scheme.substr(slash + 1) != "symmetric") options.push_back("--affine");
  return options;
}

class ReferenceValuesTest : public testing::TestWithParam<ReferenceCase> {
 protected:
  Server server_;
};

TEST_P(ReferenceValuesTest, EveryEntryIsMet) {
  const ReferenceCase& reference = GetParam();
  for (const bool raw : {false, true}) {
    const std::string session = raw ? "raw" : "reduced";
    CalibctlOk(server_.address(), Join({"session", "create", session}, reference.create));
    CalibctlOk(server_.address(), Join(raw ? std::vector<std::string>{"push", session, "--raw"}
                                           : std::vector<std::string>{"push", session},
                                       GoldenArguments()));
    std::map<std::string, std::map<std::string, Json>> answers;  // by type and scheme, by layer
    int compared = 0;
    for (const std::string& name : GoldenLayers()) {
      for (const auto& [key, entry] : GoldenExpected().at(name).at(reference.framework).items()) {
        const std::string prefix = std::string(reference.observer) + "/";
        if (key.rfind(prefix, 0) != 0 || entry.contains("error")) continue;
        const std::string spec = key.substr(prefix.size());
        SCOPED_TRACE(name + " " + key + (raw ? " raw" : ""));
        if (answers[spec].empty()) {
          const std::vector<std::string> options = {"qparams",        session,    "--method",
                                                    reference.method, "--preset", reference.preset};
          const Json json = CalibctlJson(server_.address(), Join(options, SpecOptions(spec)));
          for (const Json& layer : json.at("layers")) answers[spec][layer.at("layer")] = layer;
        }
        const Json& answer = answers[spec].at(name);
        ASSERT_TRUE(answer.contains("scale")) << answer;
        const double scale = FirstNumber(entry.at("scale"));
        EXPECT_NEAR(FirstNumber(answer.at("scale")), scale, 1e-6 * scale);
        EXPECT_EQ(FirstNumber(answer.at("zero_point")), FirstNumber(entry.at("zero_point")));
        ++compared;
      }
    }
    EXPECT_EQ(compared, reference.entries);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Frameworks, ReferenceValuesTest,
    testing::Values(
        ReferenceCase{"megengine", "MinMaxObserver", {}, "minmax", "megengine", 108},
        ReferenceCase{
            "megengine", "ExponentialMovingAverageObserver", {"--observer", "ema"}, "minmax", "megengine", 108},
        ReferenceCase{"megengine",
                      "HistogramObserver",
                      {"--observer", "reference_histogram", "--reference-rule", "megengine"},
                      "l2_greedy",
                      "megengine",
                      96},
        ReferenceCase{"torch",
                      "MovingAverageMinMaxObserver",
                      {"--observer", "ema", "--ema-convention", "pytorch"},
                      "minmax",
                      "pytorch",
                      72},
        ReferenceCase{"torch",
                      "HistogramObserver",
                      {"--observer", "reference_histogram", "--reference-rule", "pytorch"},
                      "l2_greedy",
                      "pytorch",
                      45}),
    [](const auto& info) { return std::string(info.param.framework) + info.param.observer; });

class MxnetValuesTest : public testing::Test {
 protected:
  Server server_;
};

TEST_F(MxnetValuesTest, EveryEntropyThresholdIsWithinOneBin) {
  CalibctlOk(server_.address(),
             {"session", "create", "mxnet", "--observer", "reference_histogram", "--reference-rule", "mxnet"});
  CalibctlOk(server_.address(), Join({"push", "mxnet"}, GoldenArguments()));
  int compared = 0;
  for (const auto& [type, reference_type] :
       std::map<std::string, std::string>{{"int8", "int8"}, {"uint8", "uint8"}, {"auto8", "auto"}}) {
    const Json json = CalibctlJson(server_.address(),
                                   {"qparams", "mxnet", "--method", "entropy", "--preset", "mxnet", "--dtype", type});
    for (const Json& layer : json.at("layers")) {
      const Json& mxnet = GoldenExpected().at(layer.at("layer").get<std::string>()).at("mxnet");
      const std::string key = "entropy/" + reference_type;
      if (!mxnet.contains(key) || mxnet.at(key).contains("error")) continue;
      SCOPED_TRACE(layer.at("layer").get<std::string>() + " " + key);
      const Json& entry = mxnet.at(key);
      const double bin = 2 * entry.at("range").get<double>() / entry.at("bins").get<double>();
      EXPECT_NEAR(layer.at("clip_min").at(0).get<double>(), entry.at("min").get<double>(), bin);
      EXPECT_NEAR(layer.at("clip_max").at(0).get<double>(), entry.at("max").get<double>(), bin);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 48);
}

TEST(StepObserverTest, ManyRanksAreRefusedBeforeAnythingIsPushed) {
  Server server;
  CalibctlOk(server.address(), {"session", "create", "steps", "--observer", "ema"});
  const ProcessResult refused =
      Calibctl(server.address(), {"push", "steps", "--ranks", "2", "conv1=" + GoldenFile("conv1")});
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_THAT(refused.err, testing::HasSubstr("--ranks 1"));
  EXPECT_EQ(CalibctlJson(server.address(), {"session", "show", "steps"}).at("values"), 0);
}

TEST(PassiveObserverTest, AnswersWhatWasSet) {
  Server server;
  CalibctlOk(server.address(), {"session", "create", "given", "--observer", "passive"});
  const ProcessResult pushed = Calibctl(server.address(), {"push", "given", "conv1=" + GoldenFile("conv1")});
  EXPECT_THAT(pushed.err, testing::HasSubstr("conv1"));
  CalibctlOk(server.address(),
             {"session", "set-qparams", "given", "head", "--scale", "0.5,0.25", "--zero-point", "3,-1"});
  const Json layers = CalibctlJson(server.address(), {"qparams", "given"}).at("layers");
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].at("scale"), Json({0.5, 0.25}));
  EXPECT_EQ(layers[0].at("zero_point"), Json({3, -1}));
  const ProcessResult zero = Calibctl(server.address(), {"session", "set-qparams", "given", "head", "--scale", "0"});
  EXPECT_NE(zero.exit_code, 0);
  EXPECT_THAT(zero.err, testing::HasSubstr("scale"));
}

}  // namespace
}  // namespace calib::test
