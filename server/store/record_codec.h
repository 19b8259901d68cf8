#ifndef CALIB_SERVER_STORE_RECORD_CODEC_H_
#define CALIB_SERVER_STORE_RECORD_CODEC_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/store/record.pb.h"
#include "server/store/store.h"

namespace calib::server {

// Records between store.h and the messages of record.proto. What is in a key, and the sums of a session row, are left
// to the caller. Decoding checks all that it reads; DATA_LOSS says what no record can be.

store::v1::SessionRow EncodeSession(const SessionRecord& session);
absl::StatusOr<SessionRecord> DecodeSession(absl::string_view name, const store::v1::SessionRow& row);

store::v1::WorkerRow EncodeWorker(const WorkerRecord& worker);
WorkerRecord DecodeWorker(uint32_t ordinal, const store::v1::WorkerRow& row);

store::v1::LayerRow EncodeLayer(const LayerRecord& layer);
// `session` is that of the layer, which has `workers` workers.
absl::StatusOr<LayerRecord> DecodeLayer(absl::string_view name, const SessionConfig& session, uint64_t workers,
                                        const store::v1::LayerRow& row);

}  // namespace calib::server

#endif  // CALIB_SERVER_STORE_RECORD_CODEC_H_
