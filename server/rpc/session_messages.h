#ifndef CALIB_SERVER_RPC_SESSION_MESSAGES_H_
#define CALIB_SERVER_RPC_SESSION_MESSAGES_H_

#include "absl/time/time.h"
#include "calib/v1/calibration_service.pb.h"
#include "calib/v1/session.pb.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "server/engine/session.h"

namespace calib::server {

// The engine's view of a session as messages. `now` is on the engine's clock of deadlines.
void FillSession(const Session::Summary& summary, absl::Duration now, v1::Session* message);
void FillWorkers(const Session& session, google::protobuf::RepeatedPtrField<v1::WorkerStatus>* messages);
void FillLayerSummary(const Session::LayerSnapshot& layer, v1::LayerSummary* message);

}  // namespace calib::server

#endif  // CALIB_SERVER_RPC_SESSION_MESSAGES_H_
