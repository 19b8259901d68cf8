#ifndef CALIB_PROTO_CODEC_OBSERVER_CODEC_H_
#define CALIB_PROTO_CODEC_OBSERVER_CODEC_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "calib/v1/session.pb.h"
#include "quant/observer_config.h"

namespace calib {

// Observers between message and quant types, with defaults as config_codec.h says. INVALID_FIELD, with the path of the
// field as seen from the message. quant_spec: the rule's, which a learned observer learns for; it has passed
// CheckLearnedSpec then.
absl::StatusOr<ObserverConfig> DecodeObserverConfig(const v1::ObserverConfig& message, const QuantSpec& quant_spec,
                                                    int mantissa_bits);
// Of a learned observer without its QuantSpec, which is the rule's.
v1::ObserverConfig EncodeObserverConfig(const ObserverConfig& config);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_OBSERVER_CODEC_H_
