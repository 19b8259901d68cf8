// quant/README.md's tables of extreme inputs say what every method answers under every preset. Each cell is read from
// there and held against Calibrate.

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "quant/calibrate.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

const std::map<std::string, std::vector<float>>& Inputs() {
  static const auto* const inputs = new std::map<std::string, std::vector<float>>{
      {"all zero", {0, 0, -0.0f, 0}},
      {"constant 3.25", {3.25f, 3.25f, 3.25f}},
      {"one value, -0.5", {-0.5f}},
      {"-1, -2, -4", {-1, -2, -4}},
      {"1e-40, -2e-40 (subnormal)", {1e-40f, -2e-40f}},
      {"1e-38, -2e-38", {1e-38f, -2e-38f}},
      {"FLT_MAX, -FLT_MAX", {FLT_MAX, -FLT_MAX}},
      {"only NaN", {NAN, NAN}},
      {"only infinities", {INFINITY, -INFINITY}},
      {"empty", {}},
  };
  return *inputs;
}

const std::map<std::string, QuantPreset>& Presets() {
  static const auto* const presets = new std::map<std::string, QuantPreset>{
      {"pytorch", QuantPreset::kPytorch},     {"tensorrt", QuantPreset::kTensorrt},
      {"megengine", QuantPreset::kMegengine}, {"onnxruntime", QuantPreset::kOnnxruntime},
      {"mxnet", QuantPreset::kMxnet},         {"aimet", QuantPreset::kAimet},
      {"mmrazor", QuantPreset::kMmrazor}};
  return *presets;
}

std::vector<std::string> Cells(const std::string& line) {
  std::vector<std::string> cells = absl::StrSplit(line, '|');
  cells.erase(cells.begin());
  cells.pop_back();
  for (std::string& cell : cells) absl::StripAsciiWhitespace(&cell);
  return cells;
}

// A table: its header's cells first.
using Table = std::vector<std::vector<std::string>>;

// The tables of the README whose header's second cell is "methods".
std::vector<Table> ReadTables() {
  std::ifstream file(std::string(CALIB_GOLDEN_DIR) + "/../../quant/README.md");
  std::vector<Table> tables;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] != '|') {
      inside = false;
      continue;
    }
    const std::vector<std::string> cells = Cells(line);
    if (cells.size() > 2 && cells[1] == "methods") {
      tables.emplace_back();
      inside = true;
    }
    if (inside && cells[0].find("---") == std::string::npos) tables.back().push_back(cells);
  }
  return tables;
}

// What Calibrate answers, as the README writes it; an error's code.
std::string Answer(const std::vector<float>& values, const MethodSpec& method, const QuantSpec& spec) {
  const auto result = Calibrate(test::ObserveValues(values), method, spec);
  if (!result.ok()) return result.status().code() == absl::StatusCode::kFailedPrecondition ? "no value" : "error";
  EXPECT_TRUE(std::isfinite(result->error->squared_error));
  EXPECT_GE(result->error->squared_error, 0);
  EXPECT_FALSE(std::isnan(result->error->sqnr_db()));
  char text[64];
  std::snprintf(text, sizeof(text), "%.3g, %lld", static_cast<double>(result->params[0].scale),
                static_cast<long long>(result->params[0].zero_point));
  return text;
}

class ExtremeTablesTest : public ::testing::TestWithParam<size_t> {};

TEST_P(ExtremeTablesTest, ReadmeSaysWhatCalibrateAnswers) {
  const std::vector<Table> tables = ReadTables();
  ASSERT_EQ(tables.size(), 2u);
  const Table& table = tables[GetParam()];
  const std::vector<std::string>& header = table.front();
  const std::vector<std::string> type_and_scheme = absl::StrSplit(header[0], ", ");
  QuantSpec spec;
  spec.type = *ParseQuantType(type_and_scheme[0]);
  spec.scheme = type_and_scheme[1] == "affine" ? QuantScheme::kAffine : QuantScheme::kSymmetric;
  std::map<std::string, int> methods_of_input;
  // Learned scales are of symmetric quantizers.
  const std::string all = std::string("minmax, percentile, coverage, mse, entropy, l2_greedy") +
                          (spec.scheme == QuantScheme::kSymmetric ? ", lsq, lsq_plus" : "");
  const int methods = spec.scheme == QuantScheme::kSymmetric ? 8 : 6;
  for (size_t row = 1; row < table.size(); ++row) {
    ASSERT_EQ(table[row].size(), header.size()) << table[row][0];
    ASSERT_TRUE(Inputs().contains(table[row][0])) << table[row][0];
    const std::vector<float>& values = Inputs().at(table[row][0]);
    const std::string& names = table[row][1];
    for (const absl::string_view name : absl::StrSplit(names == "all" ? all : names, ", ")) {
      const auto method = ParseMethod(name);
      ASSERT_TRUE(method.ok()) << method.status();
      ++methods_of_input[table[row][0]];
      std::string answers = absl::StrCat("| ", table[row][0], " | ", table[row][1]);
      bool differ = false;
      for (size_t column = 2; column < header.size(); ++column) {
        spec.preset = Presets().at(header[column]);
        const std::string answer = Answer(values, {*method}, spec);
        differ |= answer != table[row][column];
        absl::StrAppend(&answers, " | ", answer);
      }
      EXPECT_FALSE(differ) << name << ":\n" << answers << " |";
    }
  }
  // All inputs are there, each with all methods, and all presets that have the scheme.
  for (const auto& [name, values] : Inputs()) EXPECT_EQ(methods_of_input[name], methods) << name;
  size_t presets = 0;
  for (const auto& [name, preset] : Presets()) {
    spec.preset = preset;
    presets += ResolveSpec(spec).ok();
  }
  EXPECT_EQ(header.size(), 2 + presets);
}

INSTANTIATE_TEST_SUITE_P(Readme, ExtremeTablesTest, ::testing::Values(0, 1));

// What the tables' numbers come from, where a formula says it.
TEST(ExtremesTest, FormulasOfTheTables) {
  const auto minmax = [](QuantPreset preset, float value) {
    QuantSpec spec;
    spec.preset = preset;
    return Calibrate(test::ObserveValues({value}), {CalibrationMethod::kMinMax}, spec)->params[0];
  };
  EXPECT_EQ(minmax(QuantPreset::kPytorch, 0), (QParams{FLT_EPSILON, 0}));
  EXPECT_EQ(minmax(QuantPreset::kMmrazor, 0), (QParams{FLT_EPSILON, 0}));
  EXPECT_EQ(minmax(QuantPreset::kTensorrt, 0), (QParams{1, 0}));
  EXPECT_EQ(minmax(QuantPreset::kMegengine, 0), (QParams{1e-5f, 0}));
  EXPECT_EQ(minmax(QuantPreset::kOnnxruntime, 0), (QParams{1, 0}));
  EXPECT_EQ(minmax(QuantPreset::kMxnet, 0), (QParams{1, 0}));
  EXPECT_EQ(minmax(QuantPreset::kAimet, 0), (QParams{static_cast<float>(0.01 / 127), 0}));
  EXPECT_EQ(minmax(QuantPreset::kPytorch, FLT_MAX).scale, FLT_MAX / 127.5f);
  EXPECT_EQ(minmax(QuantPreset::kMxnet, 1e-40f).scale, FLT_MIN);
  EXPECT_EQ(minmax(QuantPreset::kOnnxruntime, 1e-38f).scale, 1);
}

// Every preset, type and scheme that there is answers every input with numbers.
TEST(ExtremesTest, EveryTypeAnswers) {
  int answered = 0;
  for (const auto& [input, values] : Inputs()) {
    const LayerStatistics statistics = test::ObserveValues(values);
    for (const auto& [name, preset] : Presets()) {
      for (const char* type : {"int1", "uint1", "int2", "uint4", "int8", "int16", "uint24", "int32", "uint32",
                               "fp8_e4m3", "fp8_e5m2", "auto8"}) {
        for (const QuantScheme scheme : {QuantScheme::kSymmetric, QuantScheme::kAffine}) {
          for (const bool power_of_two : {false, true}) {
            QuantSpec spec = test::MakeSpec(type, scheme, preset);
            spec.power_of_two_scale = power_of_two;
            if (!ResolveSpec(spec).ok()) continue;
            for (const double norm : {0.0, 2.0, 2.4}) {
              MethodSpec method{norm > 0 ? CalibrationMethod::kMse : CalibrationMethod::kMinMax};
              if (norm > 0) method.norm = norm;
              const auto result = Calibrate(statistics, method, spec);
              const std::string what = absl::StrCat(input, " ", name, " ", type, " ", norm, " ", power_of_two);
              EXPECT_EQ(result.ok(), input != "only NaN" && input != "only infinities" && input != "empty") << what;
              if (!result.ok()) continue;
              EXPECT_TRUE(std::isfinite(result->params[0].scale)) << what;
              EXPECT_GT(result->params[0].scale, 0) << what;
              EXPECT_GE(result->params[0].zero_point, result->rules.qmin - 1) << what;
              EXPECT_LE(result->params[0].zero_point, result->rules.qmax + 1) << what;
              EXPECT_TRUE(std::isfinite(result->error->squared_error)) << what;
              EXPECT_GE(result->error->squared_error, 0) << what;
              ++answered;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(answered, 5000);
}

}  // namespace
}  // namespace calib
