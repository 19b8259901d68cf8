#include "client/cli/export_options.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <limits>

#include "absl/strings/str_cat.h"
#include "client/cli/command.h"
#include "nlohmann/json.hpp"
#include "proto/codec/export_format.h"
#include "proto/codec/quantization_codec.h"
#include "quant/method_spec.h"

namespace calib::cli {
namespace {

// {"layer": "name", ...}
absl::Status ReadNames(const std::string& path, v1::ExportOptions* request) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::ErrnoToStatus(errno, path);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const nlohmann::json names = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!names.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, R"(: is no JSON object {"layer": "name in the file", ...})"));
  }
  for (const auto& [layer, name] : names.items()) {
    if (!name.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": the name of \"", layer, "\" is no string"));
    }
    (*request->mutable_name())[layer] = name.get<std::string>();
  }
  return absl::OkStatus();
}

}  // namespace

ExportOptions::ExportOptions(CLI::App* command) : quantize_(command) {
  AddSessionArgument(request_.mutable_session(), command);
  command->add_option("GLOB", *request_.mutable_pattern(), "Layers, `*` and `?` as in a shell; all without it")
      ->type_name("");
  command->add_option("--format", format_, ExportFormatNames())
      ->required()
      ->check(ParseValidator([](const std::string& text) { return ParseExportFormat(text); }))
      ->type_name("F");
  command->add_flag_callback(
      "--skip-unexportable", [this] { request_.set_skip_unexportable(true); },
      "Leave out layers that the file can't have, and say which; without it they are an error");
  AddNames(command);
  AddWeights(command);
  AddFormats(command);
}

void ExportOptions::AddNames(CLI::App* command) {
  command->add_option("--rename", renames_, "Another name in the file for a layer; may be given again and again")
      ->check(CLI::Validator(
          [](const std::string& text) {
            const size_t equals = text.rfind('=');
            return equals == std::string::npos || equals == 0 || equals + 1 == text.size()
                       ? absl::StrCat("\"", text, "\" is not LAYER=NAME")
                       : std::string();
          },
          ""))
      ->type_name("LAYER=NAME")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--names", names_path_, "Names in the file by layer, a JSON object; --rename overrides it")
      ->type_name("FILE.json");
}

void ExportOptions::AddWeights(CLI::App* command) {
  command->add_option("--weights", *request_.mutable_weight_pattern(), "Layers that are weights")
      ->default_str("*.weight")
      ->type_name("GLOB");
  command->add_option("--weight-dtype", weight_type_, "Type of weights; as the format has it without this")
      ->check(TypeValidator())
      ->type_name("TYPE");
  command
      ->add_option("--weight-granularity", weight_granularity_,
                   "per-tensor: one scale a weight; per-channel: one a channel. As the format has it without this")
      ->check(CLI::IsMember({"per-tensor", "per-channel"}).description(""))
      ->type_name("G");
  command->add_option("--weight-method", weight_method_, "How the ranges of weights are chosen")
      ->check(MethodValidator())
      ->default_str("minmax")
      ->type_name("M");
}

void ExportOptions::AddFormats(CLI::App* command) {
  CLI::Option* const model = command->add_option("--model", input_, "For onnx-qdq: the float model")->type_name("FILE");
  command->add_option("--table", input_, "For ncnn: the table whose rows are replaced")
      ->type_name("FILE")
      ->excludes(model);
  command
      ->add_option_function<std::string>(
          "--tensorrt-version",
          [this](const std::string& version) { request_.mutable_tensorrt_cache()->set_version(version); },
          "For tensorrt-cache: the release that reads it")
      ->default_str("10.3.0")
      ->type_name("V");
  command
      ->add_option_function<std::string>(
          "--tensorrt-algorithm",
          [this](const std::string& algorithm) { request_.mutable_tensorrt_cache()->set_algorithm(algorithm); },
          "For tensorrt-cache: EntropyCalibration2, EntropyCalibration, MinMaxCalibration or LegacyCalibration")
      ->default_str("EntropyCalibration2")
      ->type_name("A");
  command->add_flag_callback(
      "--activations-only", [this] { request_.mutable_onnx_qdq()->set_activations_only(true); },
      "For onnx-qdq: leave weights alone");
  command->add_flag_callback(
      "--float-weights", [this] { request_.mutable_onnx_qdq()->set_float_weights(true); },
      "For onnx-qdq: keep float weights before QuantizeLinear");
  command
      ->add_option_function<float>(
          "--least-kv-scale", [this](float scale) { request_.mutable_safetensors()->set_least_kv_scale(scale); },
          "For safetensors: least scale of the KV cache; ModelOpt writes 1")
      ->check(CLI::Range(0.0f, std::numeric_limits<float>::max()).description(""))
      ->default_str("0")
      ->type_name("S");
}

absl::StatusOr<v1::ExportOptions> ExportOptions::Request() const {
  v1::ExportOptions request = request_;
  request.set_format(ParseExportFormat(format_).value());
  quantize_.FillGiven(&request);
  if (!weight_type_.empty()) {
    request.mutable_weight_spec()->set_type(EncodeQuantSpec({.type = ParseQuantType(weight_type_).value()}).type());
  }
  if (!weight_granularity_.empty()) {
    request.mutable_weight_spec()->set_granularity(
        weight_granularity_ == "per-tensor" ? v1::QUANT_GRANULARITY_PER_TENSOR : v1::QUANT_GRANULARITY_PER_CHANNEL);
  }
  if (!weight_method_.empty()) {
    *request.mutable_weight_method() = EncodeMethodSpec({.method = ParseMethod(weight_method_).value()});
  }
  if (!names_path_.empty()) {
    if (absl::Status status = ReadNames(names_path_, &request); !status.ok()) return status;
  }
  for (const std::string& rename : renames_) {
    const size_t equals = rename.rfind('=');
    (*request.mutable_name())[rename.substr(0, equals)] = rename.substr(equals + 1);
  }
  return request;
}

}  // namespace calib::cli
