#ifndef CALIB_PROTO_CODEC_CONFIG_CODEC_H_
#define CALIB_PROTO_CODEC_CONFIG_CODEC_H_

#include "absl/status/statusor.h"
#include "calib/v1/session.pb.h"
#include "quant/observer_config.h"

namespace calib {

// Session configs between message and quant types. Decoding fills in every default and refuses what is malformed
// (INVALID_FIELD, with the path of the field); encoding writes every default out, so Encode(Decode(x)) is the canonical
// form of x and equal configs encode equally.
absl::StatusOr<SessionConfig> DecodeSessionConfig(const v1::SessionConfig& config);
v1::SessionConfig EncodeSessionConfig(const SessionConfig& config);

v1::ObserverConfig EncodeObserverConfig(const ObserverConfig& config);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_CONFIG_CODEC_H_
