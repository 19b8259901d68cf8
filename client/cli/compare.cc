#include <iostream>
#include <limits>
#include <memory>
#include <vector>

#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/qparams_table.h"
#include "client/cli/quantize_options.h"
#include "client/cli/table.h"

namespace calib::cli {
namespace {

using Answers = google::protobuf::RepeatedPtrField<v1::LayerQParams>;

// Whether each answer has the least mean squared error among those of its layer and dtype; of equal ones the first.
std::vector<bool> MarkBest(const Answers& answers) {
  std::vector<bool> best(answers.size(), false);
  for (int begin = 0, end; begin < answers.size(); begin = end) {
    double least = std::numeric_limits<double>::infinity();
    int winner = -1;
    for (end = begin; end < answers.size() && answers[end].layer() == answers[begin].layer() &&
                      TypeName(answers[end].spec()) == TypeName(answers[begin].spec());
         ++end) {
      if (answers[end].has_mse() && answers[end].mse() < least) {
        least = answers[end].mse();
        winner = end;
      }
    }
    if (winner >= 0) best[winner] = true;
  }
  return best;
}

std::string CompareTable(const Answers& answers) {
  Table table({{"LAYER", Table::Align::kLeft},
               {"DTYPE", Table::Align::kLeft},
               {"METHOD", Table::Align::kLeft},
               {"BEST", Table::Align::kLeft},
               {"MSE"},
               {"SQNR dB"},
               {"CLIPPED"},
               {"SCALE"}});
  std::string errors;
  const std::vector<bool> best = MarkBest(answers);
  for (int i = 0; i < answers.size(); ++i) {
    const v1::LayerQParams& answer = answers[i];
    if (answer.has_error()) {
      errors += LayerErrorLine(answer);
      continue;
    }
    table.AddRow({answer.layer(), TypeName(answer.spec()), MethodName(answer.method()), best[i] ? "*" : "",
                  MseCell(answer), SqnrCell(answer), ClippedCell(answer),
                  FormatNumbers(std::vector<double>(answer.scale().begin(), answer.scale().end()))});
  }
  return table.ToString() + errors;
}

struct CompareCommand {
  explicit CompareCommand(CLI::App* command) : parameters(command), spec(command) {
    AddSessionArgument(&session, command);
    command->add_option("GLOB", pattern, "Layers, `*` and `?` as in a shell; all without it")->type_name("");
    AddList("--dtype", &types, TypeValidator(), "Types of the codes, separated by commas", command);
    AddList("--methods", &methods, MethodValidator(), "Methods, separated by commas", command);
    command->parse_complete_callback([this] { parameters.Check(methods); });
  }

  static void AddList(const char* name, std::vector<std::string>* values, const CLI::Validator& validator,
                      const char* description, CLI::App* command) {
    command->add_option(name, *values, description)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(validator)
        ->capture_default_str()
        ->type_name("LIST");
  }

  absl::Status Run(const Context& context) const {
    v1::CompareMethodsRequest request;
    request.set_session(session);
    request.set_pattern(pattern);
    for (const std::string& method : methods) *request.add_method() = parameters.Method(method);
    for (const std::string& type : types) *request.add_spec() = spec.Spec(type);
    const auto response = context.client.CompareMethods(request);
    if (!response.ok()) return response.status();
    if (context.options.json) {
      const std::vector<bool> best = MarkBest(response->layer());
      Json results = Json::array();
      for (int i = 0; i < response->layer_size(); ++i) {
        Json result = ToJson(response->layer(i));
        result["best"] = static_cast<bool>(best[i]);
        results.push_back(std::move(result));
      }
      std::cout << ToLine({{"session", session}, {"results", std::move(results)}}) << '\n';
    } else {
      std::cout << CompareTable(response->layer());
    }
    return ErrorIfAllFailed(response->layer());
  }

  std::string session;
  std::string pattern;
  std::vector<std::string> types = {"int8"};
  std::vector<std::string> methods = {"minmax", "percentile", "coverage", "mse"};
  MethodParameters parameters;
  SpecOptions spec;
};

}  // namespace

Run ConfigureCompare(CLI::App* command) {
  return [parsed = std::make_shared<CompareCommand>(command)](const Context& context) { return parsed->Run(context); };
}

}  // namespace calib::cli
