#include "client/cli/synchronous_options.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/quantize_options.h"
#include "proto/codec/config_codec.h"
#include "quant/observer_config.h"

namespace calib::cli {
namespace {

std::string ParseDeadline(const std::string& text, absl::Duration* deadline) {
  if (absl::ParseDuration(text, deadline) && *deadline >= absl::Milliseconds(1) &&
      *deadline < absl::InfiniteDuration()) {
    return {};
  }
  return absl::StrCat("\"", text, "\" is not a time of at least a millisecond, such as 500ms, 30s or 2m");
}

}  // namespace

SynchronousStepOptions::SynchronousStepOptions(CLI::App* command, CLI::Option* config)
    : world_size_option_(command->add_option(
          "--world-size", world_size_, "Take synchronous steps: each is folded once this many ranks contributed")) {
  world_size_option_->check(CLI::Range(uint32_t{1}, kMaxWorldSize).description(""))->type_name("N")->excludes(config);
  command
      ->add_option("--straggler", policy_,
                   "What becomes of a step that lacks a rank: wait for it, or at the deadline fail or close_partial")
      ->check(ParseValidator([](const std::string& name) { return ParseStragglerPolicy(name); }))
      ->capture_default_str()
      ->type_name("P")
      ->needs(world_size_option_);
  deadline_option_ = command->add_option("--step-deadline", deadline_,
                                         "For fail and close_partial: time from a step's first contribution, as 30s");
  deadline_option_
      ->check(CLI::Validator(
          [](std::string& text) {
            absl::Duration deadline;
            return ParseDeadline(text, &deadline);
          },
          ""))
      ->type_name("DURATION")
      ->needs(world_size_option_);
  command->add_option("--step-window", window_, "Steps that may be open at a time; the default is 16")
      ->check(CLI::Range(uint32_t{1}, kMaxStepWindow).description(""))
      ->type_name("N")
      ->needs(world_size_option_);
}

void SynchronousStepOptions::Check() const {
  if (!given()) return;
  const bool has_deadline = deadline_option_->count() > 0;
  if (policy_ == "wait" && has_deadline) {
    throw CLI::ValidationError("--step-deadline", "needs --straggler fail or close_partial");
  }
  if (policy_ != "wait" && !has_deadline) throw CLI::ValidationError("--straggler " + policy_, "needs --step-deadline");
}

void SynchronousStepOptions::Fill(v1::SessionConfig* config) const {
  if (!given()) return;
  SynchronousOptions options;
  options.world_size = world_size_;
  options.straggler_policy = ParseStragglerPolicy(policy_).value();
  if (deadline_option_->count() > 0) ParseDeadline(deadline_, &options.deadline);
  if (window_ != 0) options.window = window_;
  *config->mutable_synchronous() = EncodeSynchronousOptions(options);
}

}  // namespace calib::cli
