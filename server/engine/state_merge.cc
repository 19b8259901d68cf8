#include "server/engine/state_merge.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "quant/learned_observer.h"
#include "server/engine/update.h"

namespace calib::server {
namespace {

absl::Status Mismatch(absl::string_view message) { return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH, message); }

std::string DescribeAxis(const std::optional<int>& axis) {
  return axis.has_value() ? absl::StrCat("per channel along axis ", *axis) : "per tensor";
}

// The parameters of the kind alone: resolutions may differ.
bool EqualParameters(const ObserverConfig& a, const ObserverConfig& b) {
  return a.ema == b.ema && a.reference == b.reference && a.learned == b.learned;
}

bool IsTakenOver(const LayerStatistics& state) {
  const ObserverKind kind = state.config().kind;
  return DependsOnOrder(kind) || kind == ObserverKind::kPassive;
}

absl::Status CheckTakeOver(const LayerStatistics& target, const LayerStatistics& state) {
  if (!EqualParameters(target.config(), state.config())) {
    return Mismatch("the state was made by an observer with other parameters; it can't be taken over");
  }
  const bool passive = state.config().kind == ObserverKind::kPassive;
  if (target.empty() || (passive && target.channels() == state.channels())) return absl::OkStatus();
  return MakeError(v1::ERROR_REASON_STATE_UNMERGEABLE,
                   passive ? "the session and the file have different parameters set for it"
                           : absl::StrCat("the session has data of it already, and a state of kind ",
                                          ObserverKindName(state.config().kind), " depends on the order of its steps"));
}

}  // namespace

absl::Status CheckStateMerge(const LayerStatistics& target, const LayerStatistics& state) {
  const ObserverConfig& to = target.config();
  const ObserverConfig& from = state.config();
  if (to.kind != from.kind) {
    return Mismatch(absl::StrCat("the session has an observer of kind ", ObserverKindName(to.kind),
                                 ", and the file a state of kind ", ObserverKindName(from.kind)));
  }
  if (to.channel_axis != from.channel_axis) {
    return Mismatch(absl::StrCat("the session observes it ", DescribeAxis(to.channel_axis), ", and the file has it ",
                                 DescribeAxis(from.channel_axis)));
  }
  if (IsTakenOver(state)) return CheckTakeOver(target, state);
  if (IsInitialized(state)) {
    if (!EqualParameters(to, from)) {
      return Mismatch("the state was learned by an observer with other parameters; it can't be taken over");
    }
    if (IsInitialized(target)) {
      return MakeError(v1::ERROR_REASON_STATE_UNMERGEABLE, "the session and the file have both learned its scale");
    }
  }
  absl::Status status = target.CheckChannelCount(state.channels().size());
  const ChannelStatistics empty = ChannelStatistics::Empty(to);
  for (size_t i = 0; status.ok() && i < state.channels().size(); ++i) {
    status = (target.empty() ? empty : target.channels()[i]).CheckMerge(state.channels()[i]);
  }
  if (status.ok()) return status;
  return MakeError(ReasonOfStatistics(status, v1::ERROR_REASON_OBSERVER_MISMATCH), status);
}

void MergeState(LayerStatistics state, LayerStatistics* target) {
  if (IsTakenOver(state)) {
    target->mutable_channels() = std::move(state.mutable_channels());
    return;
  }
  target->SetChannelCount(state.channels().size()).IgnoreError();  // CheckStateMerge passed
  for (size_t i = 0; i < state.channels().size(); ++i) {
    ChannelStatistics& channel = target->mutable_channels()[i];
    channel.Merge(state.channels()[i]);
    if (state.channels()[i].learned.has_value()) channel.learned = state.channels()[i].learned;
  }
}

}  // namespace calib::server
