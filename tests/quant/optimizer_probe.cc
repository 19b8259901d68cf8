// What learned_state.h computes, for optimizer_differential.py: reads one JSON object a line from standard input,
// writes one a line to standard output. Ends with 1 on a case that it refuses.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/learned_state.h"

namespace calib {
namespace {

using Json = nlohmann::json;

LearnedOptions OptionsOf(const Json& request) {
  LearnedOptions options;
  options.optimizer = request.at("optimizer") == "adam" ? LearnedOptimizer::kAdam : LearnedOptimizer::kSgd;
  options.learning_rate = request.at("learning_rate").get<double>();
  options.momentum = request.at("momentum").get<double>();
  options.beta1 = request.at("beta1").get<double>();
  options.beta2 = request.at("beta2").get<double>();
  options.epsilon = request.at("epsilon").get<double>();
  options.spec.scheme = request.at("affine").get<bool>() ? QuantScheme::kAffine : QuantScheme::kSymmetric;
  options.spec.codes = {request.at("qmin").get<int64_t>(), request.at("qmax").get<int64_t>()};
  options.initial = DefaultLearnedInitial(options.spec.scheme);
  return options;
}

// Runs over "gradients", a list a step of pairs a channel, and answers with the parameters after each.
absl::StatusOr<Json> RunSteps(const Json& request) {
  const LearnedOptions options = OptionsOf(request);
  if (absl::Status status = CheckLearnedOptions(options); !status.ok()) return status;
  const QuantRules rules = *ResolveSpec(options.spec);
  const double grad_factor = request.at("grad_factor").get<double>();
  std::vector<LearnedState> channels(request.at("scale").size());
  for (size_t i = 0; i < channels.size(); ++i) {
    channels[i].scale = request.at("scale").at(i).get<float>();
    channels[i].zero_point = request.at("zero_point").at(i).get<float>();
  }
  Json result{{"scale", Json::array()}, {"zero_point", Json::array()}};
  for (const Json& gradients : request.at("gradients")) {
    const LearnedStep step(options, rules, grad_factor, channels.front().steps);
    Json scale = Json::array(), zero_point = Json::array();
    for (size_t i = 0; i < channels.size(); ++i) {
      const LearnedGradient gradient{gradients.at(i).at(0).get<double>(), gradients.at(i).at(1).get<double>()};
      if (!LearnedStep::IsFinite(grad_factor, gradient)) return absl::InvalidArgumentError("an infinite gradient");
      step.Apply(gradient, &channels[i]);
      if (absl::Status status = CheckLearnedState(options, channels[i]); !status.ok()) return status;
      scale.push_back(channels[i].scale);
      zero_point.push_back(channels[i].zero_point);
    }
    result["scale"].push_back(scale);
    result["zero_point"].push_back(zero_point);
  }
  return result;
}

int Main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const absl::StatusOr<Json> result = RunSteps(Json::parse(line));
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
