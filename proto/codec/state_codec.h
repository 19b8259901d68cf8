#ifndef CALIB_PROTO_CODEC_STATE_CODEC_H_
#define CALIB_PROTO_CODEC_STATE_CODEC_H_

#include "absl/status/statusor.h"
#include "calib/v1/statistics.pb.h"
#include "proto/codec/statistics_codec.h"
#include "quant/layer_statistics.h"
#include "quant/observer_config.h"

namespace calib {

// The whole state of one layer's observer, as stores and state files keep it: a StatisticsBatch of one layer, with
// handle 0, that StatisticsWriter::Add has written; empty for a layer that has no channels. Equal states are equal
// batches.
//
// Reads one back. INVALID_ARGUMENT, saying which row and why, when no observer of this config can be in such a state:
// nothing of a damaged or forged batch is taken over unchecked.
absl::StatusOr<LayerStatistics> DecodeLayerState(const ObserverConfig& observer, const v1::StatisticsBatch& batch);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_STATE_CODEC_H_
