#ifndef CALIB_SERVER_STORE_STEP_CODEC_H_
#define CALIB_SERVER_STORE_STEP_CODEC_H_

#include "absl/status/statusor.h"
#include "server/store/record.pb.h"
#include "server/store/step_record.h"

namespace calib::server {

// Synchronous steps between step_record.h and record.proto, bit for bit. DATA_LOSS: columns of different lengths, ranks
// that are not the world's, kept steps that do not follow each other.
store::v1::StepsRecord EncodeSteps(const StepsRecord& steps);
absl::StatusOr<StepsRecord> DecodeSteps(const store::v1::StepsRecord& message);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_STEP_CODEC_H_
