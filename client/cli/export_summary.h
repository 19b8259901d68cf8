#ifndef CALIB_CLIENT_CLI_EXPORT_SUMMARY_H_
#define CALIB_CLIENT_CLI_EXPORT_SUMMARY_H_

#include <string>

#include "calib/v1/export.pb.h"

namespace calib::cli {

// What is said after an export to the file at `path`: lines for people, and one line of JSON without the newline.
std::string ExportSummaryText(const v1::ExportOptions& options, const std::string& path,
                              const v1::ExportSummary& summary);
std::string ExportSummaryJson(const v1::ExportOptions& options, const std::string& path,
                              const v1::ExportSummary& summary);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_EXPORT_SUMMARY_H_
