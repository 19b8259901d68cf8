#ifndef CALIB_PROTO_CODEC_CONFIG_CODEC_H_
#define CALIB_PROTO_CODEC_CONFIG_CODEC_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "calib/v1/session.pb.h"
#include "proto/codec/observer_codec.h"
#include "quant/observer_config.h"

namespace calib {

// Session configs between message and quant types. Decoding fills in every default and refuses what is malformed
// (INVALID_FIELD or SPEC_INVALID, with the path of the field from "config" on); encoding writes every default out, so
// Encode(Decode(x)) is the canonical form of x and equal configs encode equally.
absl::StatusOr<SessionConfig> DecodeSessionConfig(const v1::SessionConfig& config);
v1::SessionConfig EncodeSessionConfig(const SessionConfig& config);

v1::SynchronousOptions EncodeSynchronousOptions(const SynchronousOptions& options);

inline constexpr int kMaxRules = 1000;
inline constexpr uint32_t kMaxWorldSize = 65536;
inline constexpr uint32_t kMaxStepWindow = 256;
inline constexpr size_t kMaxPatternBytes = 512;
// A glob over layer names: 1 to kMaxPatternBytes bytes of UTF-8. INVALID_FIELD about `field`.
absl::Status CheckPattern(absl::string_view field, absl::string_view pattern);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_CONFIG_CODEC_H_
