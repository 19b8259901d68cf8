#include "client/cli/quantize_options.h"

#include <algorithm>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/codec/quantization_codec.h"

namespace calib::cli {
namespace {

template <typename Parse>
CLI::Validator ParseValidator(Parse parse) {
  return CLI::Validator([parse](std::string& text) { return std::string(parse(text).status().message()); }, "");
}

}  // namespace

CLI::Validator MethodValidator() {
  return ParseValidator([](const std::string& text) { return ParseMethod(text); });
}

CLI::Validator TypeValidator() {
  return ParseValidator([](const std::string& text) { return ParseQuantType(text); });
}

SpecOptions::SpecOptions(CLI::App* command) {
  CLI::Option* const affine = command->add_flag("--affine", affine_, "Scale and zero point both follow the range");
  command->add_flag("--symmetric", symmetric_, "The range is mirrored around zero (the default)")->excludes(affine);
  command->add_flag("--narrow", narrow_, "Leave out the least code: -127 to 127");
  command->add_option("--preset", preset_, "Conventions of a framework: pytorch (the default) or tensorrt")
      ->check(ParseValidator([](const std::string& text) { return ParsePreset(text); }))
      ->type_name("P");
  command->add_flag("--per-channel", per_channel_, "One scale a channel; the layers must be observed per channel");
}

bool SpecOptions::given() const { return affine_ || symmetric_ || narrow_ || per_channel_ || !preset_.empty(); }

v1::QuantSpec SpecOptions::Spec(const std::string& type) const {
  QuantSpec spec;
  spec.type = ParseQuantType(type).value();
  spec.scheme = affine_ ? QuantScheme::kAffine : QuantScheme::kSymmetric;
  if (narrow_) spec.narrow_range = true;
  if (!preset_.empty()) spec.preset = ParsePreset(preset_).value();
  spec.granularity = per_channel_ ? QuantGranularity::kPerChannel : QuantGranularity::kPerTensor;
  return EncodeQuantSpec(spec);
}

MethodParameters::MethodParameters(CLI::App* command)
    : percentile_option_(command
                             ->add_option("--percentile", percentile_,
                                          "For percentile: per cent of the values kept, above 0, at most 100")
                             ->capture_default_str()
                             ->type_name("P")),
      limit_option_(command->add_option("--limit", limit_, "For coverage: share of the values kept, above 0, at most 1")
                        ->capture_default_str()
                        ->type_name("L")) {}

MethodSpec MethodParameters::ToSpec(const std::string& name) const {
  return {.method = ParseMethod(name).value(), .percentile = percentile_, .coverage = limit_};
}

v1::MethodSpec MethodParameters::Method(const std::string& name) const { return EncodeMethodSpec(ToSpec(name)); }

void MethodParameters::Check(const std::vector<std::string>& methods) const {
  const auto has = [&](const char* name) { return std::find(methods.begin(), methods.end(), name) != methods.end(); };
  if (percentile_option_->count() > 0 && !has("percentile")) {
    throw CLI::ValidationError("--percentile", "needs the method percentile");
  }
  if (limit_option_->count() > 0 && !has("coverage")) {
    throw CLI::ValidationError("--limit", "needs the method coverage");
  }
  for (const std::string& method : methods) {
    const absl::Status status = CheckMethod(ToSpec(method));
    if (!status.ok()) throw CLI::ValidationError("method " + method, std::string(status.message()));
  }
}

QuantizeOptions::QuantizeOptions(CLI::App* command)
    : type_option_(command->add_option("--dtype", type_, "Type of the codes: int2 to int16, uint2 to uint16")
                       ->check(TypeValidator())
                       ->capture_default_str()
                       ->type_name("TYPE")),
      parameters_(command),
      spec_(command) {
  command->add_option("--method", method_, "How the range is chosen: minmax, percentile, coverage or mse")
      ->check(MethodValidator())
      ->capture_default_str()
      ->type_name("M");
  command->parse_complete_callback([this] { parameters_.Check({method_}); });
}

}  // namespace calib::cli
