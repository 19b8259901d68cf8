// What learned.h and ema_range.h compute, for learned_differential.py: reads one JSON object a line from standard
// input, writes one a line to standard output. Ends with 1 on a case that they refuse.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/ema_range.h"
#include "quant/learned.h"

namespace calib {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Json> RunLearned(const Json& request) {
  const auto floats = [&](const char* name) { return request.at(name).get<std::vector<float>>(); };
  const std::vector<float> scale = floats("scale"), zero_point = floats("zero_point"), x = floats("x"),
                           dy = floats("dy");
  LearnedParams params{scale, zero_point, request.at("qmin").get<int64_t>(), request.at("qmax").get<int64_t>()};
  params.rule = request.at("per_tensor").get<bool>() ? LearnedRule::kPytorchPerTensor : LearnedRule::kPytorchPerChannel;
  const ChannelBlocks blocks{request.at("outer").get<size_t>(), scale.size(), request.at("inner").get<size_t>()};
  std::vector<float> y(x.size()), dx(x.size());
  std::vector<double> dscale(scale.size()), dzero_point(scale.size());
  if (absl::Status status = FakeQuantize(params, blocks, x, absl::MakeSpan(y)); !status.ok()) return status;
  if (absl::Status status =
          FakeQuantizeGradients(params, blocks, request.at("grad_factor").get<double>(), x, dy, absl::MakeSpan(dx),
                                absl::MakeSpan(dscale), absl::MakeSpan(dzero_point));
      !status.ok()) {
    return status;
  }
  return Json{{"y", y}, {"dx", dx}, {"dscale", dscale}, {"dzero_point", dzero_point}};
}

// "min" and "max" hold a list a step of numbers a channel.
absl::StatusOr<Json> RunEma(const Json& request) {
  const EmaOptions options{EmaConvention::kPytorch, request.at("weight").get<double>()};
  if (absl::Status status = CheckEmaOptions(options); !status.ok()) return status;
  const Json &least = request.at("min"), &greatest = request.at("max");
  std::vector<EmaRange> channels(least.at(0).size());
  for (size_t step = 0; step < least.size(); ++step) {
    for (size_t i = 0; i < channels.size(); ++i) {
      Range range;
      range.min = least.at(step).at(i).get<float>();
      range.max = greatest.at(step).at(i).get<float>();
      range.count = 1;
      channels[i].Fold(options, range);
    }
  }
  Json result{{"min", Json::array()}, {"max", Json::array()}};
  for (const EmaRange& channel : channels) {
    result["min"].push_back(channel.min);
    result["max"].push_back(channel.max);
  }
  return result;
}

int Main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const Json request = Json::parse(line);
    const absl::StatusOr<Json> result = request.at("kind") == "ema" ? RunEma(request) : RunLearned(request);
    if (!result.ok()) {
      std::cerr << result.status() << "\n";
      return 1;
    }
    std::cout << *result << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace calib

int main() { return calib::Main(); }
