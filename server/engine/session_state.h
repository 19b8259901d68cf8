#ifndef CALIB_SERVER_ENGINE_SESSION_STATE_H_
#define CALIB_SERVER_ENGINE_SESSION_STATE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "proto/codec/state_file.h"
#include "quant/layer_statistics.h"
#include "server/store/store.h"

namespace calib::server {

// A consistent cut of a session's statistics, on its way into a state file.
struct StateCut {
  SessionRecord record;
  std::vector<StateLayer> layers;  // those with channels, in name order; they never change
  uint64_t bytes = 0;              // memory of the layers
  bool incomplete = false;         // values are missing, as of the session
};

// What a state file brings, checked as far as that goes without the session that it is merged into.
struct SessionState {
  std::string digest;                // of the file
  std::string session;               // its name where it was exported
  std::vector<std::string> lineage;  // uids of the sessions whose values it holds, rising
  bool incomplete = false;           // values are missing in it
  // With channels, in rising name order.
  std::vector<std::pair<std::string, LayerStatistics>> layers;
};

// What Session::MergeState did.
struct StateMerge {
  bool already_merged = false;  // nothing was changed
  uint64_t layers = 0;
  uint64_t values = 0;  // stays at 2^64 - 1
  std::vector<std::string> left_out;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_SESSION_STATE_H_
