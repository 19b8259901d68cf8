#ifndef CALIB_SERVER_APP_LOG_H_
#define CALIB_SERVER_APP_LOG_H_

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace calib::server {

enum class LogLevel { kInfo, kWarning, kError };

// Writes one line to stderr: time=2026-01-02T03:04:05.678Z level=info message="..." key=value ... Values are quoted
// where they need it, so that every event is one line and every line can be split again. Thread-safe.
void Log(LogLevel level, absl::string_view message,
         std::initializer_list<std::pair<absl::string_view, std::string>> fields = {});

// Sends the messages of gRPC and Protobuf, errors alone, through Log.
void RedirectLibraryLogs();

}  // namespace calib::server

#endif  // CALIB_SERVER_APP_LOG_H_
