#ifndef CALIB_SERVER_ENGINE_LAYER_H_
#define CALIB_SERVER_ENGINE_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quant/observer_config.h"
#include "quant/quant_spec.h"
#include "server/engine/shared_statistics.h"

namespace calib::server {

// The observer of one layer of a session. Guarded by its session's lock.
struct Layer {
  std::string name;
  SharedStatistics statistics;
  QuantSpec quant_spec;
  bool enabled = true;
  uint64_t version = 0;            // session version of the last change
  std::vector<bool> contributors;  // by worker ordinal
  size_t bytes = 0;                // memory, as counted in the session's state_bytes
};

// A stream's handle: what its name stands for. `layer` is filled by the session once the layer exists, under its lock;
// only that session uses it.
struct LayerBinding {
  std::string name;
  std::optional<ObserverConfig> observer;  // unset: the rules skip it
  QuantSpec quant_spec;
  Layer* layer = nullptr;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_LAYER_H_
