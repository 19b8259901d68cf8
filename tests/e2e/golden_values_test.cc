// What a person reads from calibctl about the golden layers, against what NumPy computed from the raw values.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/e2e/fleet.h"
#include "tests/support/npy_reader.h"

namespace calib::test {
namespace {

class GoldenValuesTest : public testing::Test {
 protected:
  GoldenValuesTest() {
    CalibctlOk(server_.address(), {"session", "create", "golden"});
    CalibctlOk(server_.address(), Join({"push", "golden", "--ranks", "4"}, GoldenArguments()));
  }

  Json QParams(const std::vector<std::string>& options) {
    return CalibctlJson(server_.address(), Join({"qparams", "golden"}, options)).at("layers");
  }

  Server server_;
};

TEST_F(GoldenValuesTest, MinMaxAndCountAreExact) {
  const Json layers = QParams({});
  ASSERT_EQ(layers.size(), GoldenLayers().size());
  std::vector<std::string> names;
  for (const Json& layer : layers) {
    const std::string name = layer.at("layer");
    SCOPED_TRACE(name);
    names.push_back(name);
    const Json& expected = GoldenExpected().at(name);
    EXPECT_EQ(layer.at("min").get<double>(), expected.at("min").get<double>());
    EXPECT_EQ(layer.at("max").get<double>(), expected.at("max").get<double>());
    EXPECT_EQ(layer.at("count"), expected.at("numpy").at("count"));
    EXPECT_EQ(layer.at("nan"), 0);
    EXPECT_EQ(layer.at("inf"), 0);
  }
  EXPECT_EQ(names, GoldenLayers());
}

TEST_F(GoldenValuesTest, MinMaxScalesEqualPytorchs) {
  int compared = 0;
  for (const char* type : {"int8", "uint8"}) {
    for (const char* scheme : {"affine", "symmetric"}) {
      const std::string key = std::string("MinMaxObserver/q") + type + "/" + scheme;
      for (const Json& layer : QParams({"--dtype", type, std::string("--") + scheme})) {
        SCOPED_TRACE(key + " of " + layer.at("layer").get<std::string>());
        const Json& torch = GoldenExpected().at(layer.at("layer").get<std::string>()).at("torch");
        if (!torch.contains(key)) continue;
        EXPECT_EQ(layer.at("scale"), torch.at(key).at("scale"));
        EXPECT_EQ(layer.at("zero_point"), torch.at(key).at("zero_point"));
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 72);
}

TEST_F(GoldenValuesTest, PercentilesAreWithinOneBinOfNumPys) {
  for (const char* percentile : {"99.9", "99.99"}) {
    int compared = 0;
    for (const Json& layer : QParams({"--method", "percentile", "--percentile", percentile})) {
      SCOPED_TRACE(layer.at("layer"));
      const Json& numpy = GoldenExpected().at(layer.at("layer").get<std::string>()).at("numpy");
      const double expected = numpy.at(std::string("percentile_abs_") + percentile);
      EXPECT_NEAR(layer.at("clip_max").at(0).get<double>(), expected, expected / 256);
      EXPECT_EQ(layer.at("clip_min").at(0).get<double>(), -layer.at("clip_max").at(0).get<double>());
      ++compared;
    }
    EXPECT_EQ(compared, 18);
  }
}

// The mean squared error on the raw values of quantizing with one scale.
double RawMse(const NpyArray& array, double scale, int64_t qmin, int64_t qmax) {
  double sum = 0;
  for (const float value : array.data) {
    const double code = std::fmin(std::fmax(std::nearbyint(value / scale), qmin), qmax);
    sum += (value - code * scale) * (value - code * scale);
  }
  return sum / static_cast<double>(array.data.size());
}

// The reference searched a sample of layers with more values than this; there the error of its scale is measured anew.
constexpr size_t kSampledAbove = 200000;

TEST_F(GoldenValuesTest, MseScalesAreCloseToTheBestOnTheRawValues) {
  std::map<std::string, NpyArray> arrays;
  for (const std::string& layer : GoldenLayers()) arrays[layer] = ReadNpy(GoldenFile(layer));
  int compared = 0;
  for (const std::string type : {"int8", "int4"}) {
    for (const Json& layer : QParams({"--method", "mse", "--dtype", type})) {
      ++compared;
      const std::string name = layer.at("layer");
      SCOPED_TRACE(name + " " + type);
      const NpyArray& array = arrays.at(name);
      const int64_t qmin = layer.at("qmin"), qmax = layer.at("qmax");
      const double mse = RawMse(array, layer.at("scale").at(0), qmin, qmax);
      const std::string key = "brute_force_mse_" + type + "_symmetric";
      if (!GoldenExpected().at(name).contains(key)) {
        EXPECT_EQ(mse, 0) << "only the all-zero layer has no brute-force result";
        continue;
      }
      const Json& brute_force = GoldenExpected().at(name).at(key);
      const double best = array.data.size() > kSampledAbove ? RawMse(array, brute_force.at("scale"), qmin, qmax)
                                                            : brute_force.at("mse").get<double>();
      // What rounding the scale to float32 costs where the values are met exactly.
      const double rounding = std::pow(1e-7 * layer.at("max").get<double>(), 2);
      EXPECT_LE(mse, (array.data.size() < 10000 ? 1.05 : 1.01) * best + rounding);
    }
  }
  EXPECT_EQ(compared, 36);
}

TEST_F(GoldenValuesTest, PredictedErrorIsThatOfTheRawValues) {
  int compared = 0;
  for (const Json& layer : QParams({"--method", "mse", "--dtype", "int4"})) {
    const std::string name = layer.at("layer");
    SCOPED_TRACE(name);
    const NpyArray array = ReadNpy(GoldenFile(name));
    const double mse = RawMse(array, layer.at("scale").at(0), layer.at("qmin"), layer.at("qmax"));
    if (layer.at("sqnr_db").is_null()) {
      EXPECT_EQ(layer.at("mse"), 0.0);
      continue;
    }
    EXPECT_NEAR(layer.at("mse").get<double>(), mse, 0.05 * mse);
    EXPECT_GE(layer.at("clipped").get<double>(), 0);
    EXPECT_LE(layer.at("clipped").get<double>(), 1);
    ++compared;
  }
  EXPECT_EQ(compared, 17);  // all but the one without error
}

TEST_F(GoldenValuesTest, JsonHasTheKeysOfTheContractInTheirOrder) {
  const Json json = CalibctlJson(server_.address(), {"qparams", "golden", "conv1", "--method", "mse"});
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_THAT(keys, testing::ElementsAre("session", "layers"));
  keys.clear();
  ASSERT_EQ(json.at("layers").size(), 1u);
  for (const auto& [key, value] : json.at("layers")[0].items()) keys.push_back(key);
  EXPECT_THAT(
      keys, testing::ElementsAre("layer", "method", "dtype", "symmetric", "scale", "zero_point", "qmin", "qmax", "min",
                                 "max", "clip_min", "clip_max", "count", "nan", "inf", "mse", "sqnr_db", "clipped"));
}

TEST_F(GoldenValuesTest, CompareMarksTheLeastError) {
  const Json json = CalibctlJson(
      server_.address(), {"compare", "golden", "--dtype", "int8,int4", "--methods", "minmax,percentile,coverage,mse"});
  std::map<std::pair<std::string, std::string>, std::pair<std::string, double>> best;
  std::map<std::pair<std::string, std::string>, double> least;
  for (const Json& result : json.at("results")) {
    const std::pair<std::string, std::string> key(result.at("layer"), result.at("dtype"));
    const double mse = result.at("mse");
    least[key] = least.count(key) > 0 ? std::min(least[key], mse) : mse;
    if (result.at("best")) {
      EXPECT_EQ(best.count(key), 0u) << key.first << " has two best methods";
      best[key] = {result.at("method"), mse};
    }
  }
  EXPECT_EQ(best.size(), 2 * GoldenLayers().size());
  for (const auto& [key, value] : best) {
    EXPECT_EQ(value.second, least[key]) << key.first;
    // Where outliers are far off, what is best is known.
    const bool known = key.first == "syn_student2" || key.first == "conv1";
    EXPECT_TRUE(!known || value.first == "mse") << key.first << ": " << value.first;
  }
  const std::string table = CalibctlOk(server_.address(), {"compare", "golden", "conv?", "--dtype", "int8,int4"});
  EXPECT_THAT(table, testing::HasSubstr("conv1"));
  EXPECT_THAT(table, testing::Not(testing::HasSubstr("relu1")));
  EXPECT_EQ(std::count(table.begin(), table.end(), '*'), 4) << table;
}

}  // namespace
}  // namespace calib::test
