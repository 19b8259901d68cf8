#ifndef CALIB_CLIENT_CPP_STEP_LAYERS_H_
#define CALIB_CLIENT_CPP_STEP_LAYERS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "quant/observer_config.h"

namespace calib::client {

// A layer that takes part in synchronous steps, or is left out of them. Immutable.
struct StepLayerInfo {
  std::string name;
  uint32_t number = 0;    // of those that are not left out
  bool left_out = false;  // skipped or passive
  ObserverKind kind = ObserverKind::kPassive;
  ReferenceRule rule = ReferenceRule::kMegengine;  // of a reference histogram
  // What a rank collects of it: a histogram, or the range alone when the server does the rest.
  ObserverConfig collected;
};

// The layers of a session as one rank numbers them, in the order of their first use. Numbers are the handles of every
// stream. Not thread-safe.
class StepLayers {
 public:
  // The layer of this name, new if need be. LAYER_NAME_INVALID.
  absl::StatusOr<std::shared_ptr<const StepLayerInfo>> Find(absl::string_view name, const ObserverRules& rules);

  // How many have a number.
  size_t size() const { return numbered_.size(); }
  const std::string& name(size_t number) const { return numbered_[number]->name; }
  // Forgets those from number `size` on, whose numbers others may get. REQUIRES: size <= size().
  void Truncate(size_t size);

 private:
  absl::flat_hash_map<std::string, std::shared_ptr<const StepLayerInfo>> by_name_;
  std::vector<std::shared_ptr<const StepLayerInfo>> numbered_;
};

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_STEP_LAYERS_H_
