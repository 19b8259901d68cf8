#ifndef CALIB_CLIENT_CLI_SYNCHRONOUS_OPTIONS_H_
#define CALIB_CLIENT_CLI_SYNCHRONOUS_OPTIONS_H_

#include <cstdint>
#include <string>

#include "CLI/CLI.hpp"
#include "calib/v1/session.pb.h"

namespace calib::cli {

// The options of a session's synchronous steps: --world-size, which makes it have them, --straggler, --step-deadline
// and --step-window.
class SynchronousStepOptions {
 public:
  // config: the option that stands for all of these, so that none can be given beside it.
  SynchronousStepOptions(CLI::App* command, CLI::Option* config);
  SynchronousStepOptions(const SynchronousStepOptions&) = delete;
  SynchronousStepOptions& operator=(const SynchronousStepOptions&) = delete;

  bool given() const { return world_size_option_->count() > 0; }
  // Throws CLI::ValidationError when a policy that needs a deadline has none, or one that has none was given one.
  void Check() const;
  // Sets `synchronous` if they were given.
  void Fill(v1::SessionConfig* config) const;

 private:
  uint32_t world_size_ = 1;
  CLI::Option* world_size_option_;
  std::string policy_ = "wait";
  std::string deadline_;
  CLI::Option* deadline_option_;
  uint32_t window_ = 0;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SYNCHRONOUS_OPTIONS_H_
