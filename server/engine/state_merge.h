#ifndef CALIB_SERVER_ENGINE_STATE_MERGE_H_
#define CALIB_SERVER_ENGINE_STATE_MERGE_H_

#include "absl/status/status.h"
#include "quant/layer_statistics.h"

namespace calib::server {

// How the state of a layer, as another session collected it, goes into what this session has of the layer.
//
// Histograms and ranges merge. What can't be merged is taken over as it is, from an observer with equal parameters,
// where `target` has none: all of a state that depends on order, set parameters (equal ones may be there already), and
// what was learned, beside the statistics, which merge.
//
// OBSERVER_MISMATCH (another kind, channel axis or parameters, a coarser histogram), CHANNEL_COUNT_CHANGED,
// COUNT_OVERFLOW, STATE_UNMERGEABLE (both have what can't be merged). REQUIRES: `state` has channels.
absl::Status CheckStateMerge(const LayerStatistics& target, const LayerStatistics& state);
// REQUIRES: CheckStateMerge(*target, state).ok().
void MergeState(LayerStatistics state, LayerStatistics* target);

}  // namespace calib::server

#endif  // CALIB_SERVER_ENGINE_STATE_MERGE_H_
