#ifndef CALIB_CLIENT_CLI_WATCH_VIEW_H_
#define CALIB_CLIENT_CLI_WATCH_VIEW_H_

#include <map>
#include <string>

#include "calib/v1/calibration_service.pb.h"

namespace calib::cli {

// The session in one line: values, updates, layers, workers and how far these lag behind being durable, and where its
// synchronous steps are, when it has any.
std::string WatchLine(const v1::WatchQParamsResponse& state);

// A watched session as a full terminal screen: its line, its synchronous steps, the workers, and all layers with their
// newest qparams. Not thread-safe.
class WatchView {
 public:
  void Update(const v1::WatchQParamsResponse& state);
  // Escape codes that clear the terminal, then as many lines as it has.
  std::string Screen() const;

 private:
  v1::WatchQParamsResponse state_;
  std::map<std::string, v1::LayerQParams> layers_;  // states carry only those that changed
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_WATCH_VIEW_H_
