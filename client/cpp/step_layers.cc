#include "client/cpp/step_layers.h"

#include <optional>
#include <utility>

#include "client/cpp/layer_name.h"

namespace calib::client {
namespace {

ObserverKind CollectedKind(ObserverKind kind) {
  switch (kind) {
    case ObserverKind::kHistogram:
    case ObserverKind::kLearned:
      return ObserverKind::kHistogram;
    case ObserverKind::kMinMax:
    case ObserverKind::kEma:
    case ObserverKind::kReferenceHistogram:
    case ObserverKind::kPassive:
      break;
  }
  return ObserverKind::kMinMax;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const StepLayerInfo>> StepLayers::Find(absl::string_view name,
                                                                      const ObserverRules& rules) {
  const auto found = by_name_.find(name);
  if (found != by_name_.end()) return found->second;
  if (absl::Status status = CheckLayerName(name); !status.ok()) return status;
  auto info = std::make_shared<StepLayerInfo>();
  info->name = std::string(name);
  const std::optional<ObserverConfig> observer = rules.Match(name);
  info->left_out = !observer.has_value() || observer->kind == ObserverKind::kPassive;
  if (!info->left_out) {
    info->number = static_cast<uint32_t>(numbered_.size());
    info->kind = observer->kind;
    info->rule = observer->reference.rule;
    info->collected = *observer;
    info->collected.kind = CollectedKind(observer->kind);
    info->collected.learned = {};
    numbered_.push_back(info);
  }
  by_name_.emplace(info->name, info);
  return info;
}

void StepLayers::Truncate(size_t size) {
  for (size_t number = size; number < numbered_.size(); ++number) by_name_.erase(numbered_[number]->name);
  numbered_.resize(size);
}

}  // namespace calib::client
