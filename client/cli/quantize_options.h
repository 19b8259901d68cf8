#ifndef CALIB_CLIENT_CLI_QUANTIZE_OPTIONS_H_
#define CALIB_CLIENT_CLI_QUANTIZE_OPTIONS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "calib/v1/quantization.pb.h"
#include "quant/method_spec.h"
#include "quant/quant_spec.h"

namespace calib::cli {

// Accepts what `parse` does, which takes a string and gives a StatusOr; its message names what there is.
template <typename Parse>
CLI::Validator ParseValidator(Parse parse) {
  return CLI::Validator([parse](std::string& text) { return std::string(parse(text).status().message()); }, "");
}
// By the parse functions of quant/ and proto/codec/.
CLI::Validator MethodValidator();
CLI::Validator TypeValidator();

// The options that say how a range becomes qparams: --affine, --symmetric, --narrow, --qmin, --qmax, --reduce-range,
// --power-of-two, --preset, --per-channel.
class SpecOptions {
 public:
  explicit SpecOptions(CLI::App* command);
  SpecOptions(const SpecOptions&) = delete;
  SpecOptions& operator=(const SpecOptions&) = delete;

  // Whether one of them was given.
  bool given() const;
  // The spec for `type`, a name that TypeValidator accepted. Options not given have the defaults of QuantSpec.
  v1::QuantSpec Spec(const std::string& type) const;
  // The same with only what was given set; an empty `type` was not.
  v1::QuantSpec Given(const std::string& type) const;

 private:
  bool affine_ = false;
  bool symmetric_ = false;
  bool narrow_ = false;
  bool per_channel_ = false;
  bool reduce_range_ = false;
  bool power_of_two_ = false;
  CodeRange codes_;
  CLI::Option* codes_option_ = nullptr;  // --qmin; --qmax comes with it
  std::string preset_;
};

// The parameters of methods: --percentile, --one-sided, --limit, --norm and --entropy-variant.
class MethodParameters {
 public:
  explicit MethodParameters(CLI::App* command);
  MethodParameters(const MethodParameters&) = delete;
  MethodParameters& operator=(const MethodParameters&) = delete;

  // The method of this name, which MethodValidator accepted.
  v1::MethodSpec Method(const std::string& name) const;
  // Throws CLI::ValidationError when a parameter is out of range or was given and none of `methods` has it.
  void Check(const std::vector<std::string>& methods) const;

 private:
  MethodSpec ToSpec(const std::string& name) const;

  MethodSpec spec_;
  std::string entropy_variant_ = "mxnet";
  std::vector<std::pair<CLI::Option*, std::string>> options_;  // with the method that each belongs to
};

// One method and one spec: --method, --dtype and all of the above, for ComputeQParams and WatchQParams.
class QuantizeOptions {
 public:
  explicit QuantizeOptions(CLI::App* command);

  // Sets `method`, and `spec` when any of its options was given: else each layer's rule decides.
  template <typename Request>
  void Fill(Request* request) const {
    *request->mutable_method() = parameters_.Method(method_);
    if (type_option_->count() > 0 || spec_.given()) *request->mutable_spec() = spec_.Spec(type_);
  }
  // The same for a call that has its own defaults: sets nothing else than what was given.
  template <typename Request>
  void FillGiven(Request* request) const {
    *request->mutable_method() = parameters_.Method(method_);
    const bool type_given = type_option_->count() > 0;
    if (type_given || spec_.given()) *request->mutable_spec() = spec_.Given(type_given ? type_ : "");
  }

 private:
  std::string method_ = "minmax";
  std::string type_ = "int8";
  CLI::Option* type_option_;
  MethodParameters parameters_;
  SpecOptions spec_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_QUANTIZE_OPTIONS_H_
