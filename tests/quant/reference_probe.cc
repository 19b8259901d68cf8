// Answers reference_differential.py: reads requests from standard input, each a line of JSON followed by the
// little-endian arrays that it announces ("float32": [lengths], "float64": [lengths]), and prints a line of JSON for
// each.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/quant/reference_test_util.h"

namespace calib::test {
namespace {

using nlohmann::json;

template <typename Value>
std::vector<std::vector<Value>> ReadArrays(const json& lengths) {
  std::vector<std::vector<Value>> arrays;
  for (const size_t length : lengths) {
    std::vector<Value>& values = arrays.emplace_back(length);
    std::cin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(length * sizeof(Value)));
  }
  return arrays;
}

json Error(const absl::Status& status) { return {{"error", absl::StatusCodeToString(status.code())}}; }

json Searches(const json& request, const EqualWidthHistogram& histogram) {
  json ranges = json::array();
  const auto arithmetic =
      request.at("arithmetic") == "pytorch" ? GreedyArithmetic::kPytorch : GreedyArithmetic::kMegengine;
  for (const int64_t levels : request.at("levels")) {
    const ClipRange range = L2GreedyRange(histogram, levels, arithmetic);
    ranges.push_back({range.min, range.max});
  }
  return ranges;
}

json Observe(const json& request, const std::vector<std::vector<float>>& steps) {
  ReferenceOptions options;
  options.rule = *ParseReferenceRule(request.at("rule").get<std::string>());
  options.bins = request.at("bins");
  ReferenceHistogram histogram(options);
  for (const auto& step : steps) {
    if (const absl::Status status = Feed(step, &histogram); !status.ok()) return Error(status);
  }
  json answer = {{"min", histogram.range().min},
                 {"max", histogram.range().max},
                 {"low", histogram.grid().low},
                 {"high", histogram.grid().high},
                 {"counts", histogram.counts()}};
  if (request.contains("levels")) answer["ranges"] = Searches(request, Searched(histogram));
  return answer;
}

json Count(const json& request, const std::vector<float>& values) {
  std::vector<uint64_t> counts;
  const ReferenceGrid grid = {request.at("low"), request.at("high"), request.at("bins")};
  const absl::Status status =
      CountOnGrid(*ParseReferenceRule(request.at("rule").get<std::string>()), grid, View(values), &counts);
  if (!status.ok()) return Error(status);
  return {{"counts", counts}};
}

json Entropy(const json& request, const std::vector<double>& counts) {
  const EqualWidthHistogram histogram = {request.at("low"), request.at("high"), counts};
  const int levels = request.at("levels");
  const auto found = request.at("op") == "mxnet" ? MxnetEntropy(histogram, levels) : TensorrtEntropy(histogram, levels);
  if (!found.ok()) return Error(found.status());
  return {{"threshold", found->threshold}, {"divergence", found->divergence}};
}

json Answer(const json& request) {
  const auto floats = ReadArrays<float>(request.value("float32", json::array()));
  const auto doubles = ReadArrays<double>(request.value("float64", json::array()));
  const std::string op = request.at("op");
  if (op == "observe") return Observe(request, floats);
  if (op == "count") return Count(request, floats.at(0));
  if (op == "search") return {{"ranges", Searches(request, {request.at("low"), request.at("high"), doubles.at(0)})}};
  return Entropy(request, doubles.at(0));
}

}  // namespace
}  // namespace calib::test

int main() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) std::cout << calib::test::Answer(nlohmann::json::parse(line)).dump() << '\n';
  return 0;
}
