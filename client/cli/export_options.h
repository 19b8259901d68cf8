#ifndef CALIB_CLIENT_CLI_EXPORT_OPTIONS_H_
#define CALIB_CLIENT_CLI_EXPORT_OPTIONS_H_

#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "calib/v1/export.pb.h"
#include "client/cli/quantize_options.h"

namespace calib::cli {

// Session, pattern, format and everything that says how the file is made.
class ExportOptions {
 public:
  explicit ExportOptions(CLI::App* command);
  ExportOptions(const ExportOptions&) = delete;
  ExportOptions& operator=(const ExportOptions&) = delete;

  // Reads the file of names. Its errors begin with the path.
  absl::StatusOr<v1::ExportOptions> Request() const;
  // The model or table that the file is made of; empty: none.
  const std::string& input_path() const { return input_; }

 private:
  void AddNames(CLI::App* command);
  void AddWeights(CLI::App* command);
  void AddFormats(CLI::App* command);

  v1::ExportOptions request_;
  std::string format_;
  std::string input_;
  std::vector<std::string> renames_;  // LAYER=NAME
  std::string names_path_;
  std::string weight_type_;
  std::string weight_granularity_;
  std::string weight_method_;
  QuantizeOptions quantize_;
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_EXPORT_OPTIONS_H_
