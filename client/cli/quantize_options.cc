#include "client/cli/quantize_options.h"

#include <algorithm>
#include <vector>

#include "proto/codec/quantization_codec.h"

namespace calib::cli {

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
  codes_option_ =
      command->add_option("--qmin", codes_.qmin, "Least code, with --qmax: only a part of the type's codes");
  CLI::Option* const qmax = command->add_option("--qmax", codes_.qmax, "Greatest code, with --qmin");
  codes_option_->type_name("Q")->needs(qmax);
  qmax->type_name("Q")->needs(codes_option_);
  command->add_flag("--reduce-range", reduce_range_, "Half of the codes, for CPUs whose int8 products saturate");
  command->add_flag("--power-of-two", power_of_two_, "Round the scale up to a power of two");
  command
      ->add_option(
          "--preset", preset_,
          "Conventions of a framework: pytorch (the default), tensorrt, megengine, onnxruntime, mxnet, aimet or "
          "mmrazor")
      ->check(ParseValidator([](const std::string& text) { return ParsePreset(text); }))
      ->type_name("P");
  command->add_flag("--per-channel", per_channel_, "One scale a channel; the layers must be observed per channel");
}

bool SpecOptions::given() const {
  return affine_ || symmetric_ || narrow_ || per_channel_ || reduce_range_ || power_of_two_ ||
         codes_option_->count() > 0 || !preset_.empty();
}

v1::QuantSpec SpecOptions::Spec(const std::string& type) const {
  QuantSpec spec;
  spec.type = ParseQuantType(type).value();
  spec.scheme = affine_ ? QuantScheme::kAffine : QuantScheme::kSymmetric;
  if (narrow_) spec.narrow_range = true;
  if (codes_option_->count() > 0) spec.codes = codes_;
  spec.reduce_range = reduce_range_;
  spec.power_of_two_scale = power_of_two_;
  if (!preset_.empty()) spec.preset = ParsePreset(preset_).value();
  spec.granularity = per_channel_ ? QuantGranularity::kPerChannel : QuantGranularity::kPerTensor;
  return EncodeQuantSpec(spec);
}

v1::QuantSpec SpecOptions::Given(const std::string& type) const {
  v1::QuantSpec spec = Spec(type.empty() ? QuantType().Name() : type);
  if (type.empty()) spec.clear_type();
  if (!affine_ && !symmetric_) spec.clear_scheme();
  if (preset_.empty()) spec.clear_preset();
  if (!per_channel_) spec.clear_granularity();
  return spec;
}

MethodParameters::MethodParameters(CLI::App* command) {
  const auto add = [&](CLI::Option* option, const char* type_name, const char* method) {
    option->capture_default_str()->type_name(type_name);
    options_.emplace_back(option, method);
  };
  add(command->add_option("--percentile", spec_.percentile,
                          "For percentile: per cent of the values kept, above 0, at most 100"),
      "P", "percentile");
  options_.emplace_back(command->add_flag("--one-sided", spec_.one_sided,
                                          "For percentile with --affine: cut above only, not on both sides"),
                        "percentile");
  add(command->add_option("--limit", spec_.coverage, "For coverage: share of the values kept, above 0, at most 1"), "L",
      "coverage");
  add(command->add_option("--norm", spec_.norm, "For mse: the power of the error that is least, 1 to 8"), "N", "mse");
  add(command->add_option("--entropy-variant", entropy_variant_, "For entropy: mxnet or tensorrt")
          ->check(CLI::IsMember({"mxnet", "tensorrt"}).description("")),
      "V", "entropy");
}

MethodSpec MethodParameters::ToSpec(const std::string& name) const {
  MethodSpec spec = spec_;
  spec.method = ParseMethod(name).value();
  spec.entropy_variant = entropy_variant_ == "tensorrt" ? EntropyVariant::kTensorrt : EntropyVariant::kMxnet;
  return spec;
}

v1::MethodSpec MethodParameters::Method(const std::string& name) const { return EncodeMethodSpec(ToSpec(name)); }

void MethodParameters::Check(const std::vector<std::string>& methods) const {
  for (const auto& [option, method] : options_) {
    if (option->count() > 0 && std::find(methods.begin(), methods.end(), method) == methods.end()) {
      throw CLI::ValidationError(option->get_name(), "needs the method " + method);
    }
  }
  for (const std::string& method : methods) {
    const absl::Status status = CheckMethod(ToSpec(method));
    if (!status.ok()) throw CLI::ValidationError("method " + method, std::string(status.message()));
  }
}

QuantizeOptions::QuantizeOptions(CLI::App* command)
    : type_option_(
          command
              ->add_option("--dtype", type_,
                           "Type of the codes: int1 to int32, uint1 to uint32, fp8_e4m3, fp8_e5m2, or auto8: uint8 "
                           "for layers without a negative value, else int8")
              ->check(TypeValidator())
              ->capture_default_str()
              ->type_name("TYPE")),
      parameters_(command),
      spec_(command) {
  command
      ->add_option("--method", method_,
                   "How the range is chosen: minmax, percentile, coverage, mse, entropy, l2_greedy, lsq or lsq_plus")
      ->check(MethodValidator())
      ->capture_default_str()
      ->type_name("M");
  command->parse_complete_callback([this] { parameters_.Check({method_}); });
}

}  // namespace calib::cli
