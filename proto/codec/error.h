#ifndef CALIB_PROTO_CODEC_ERROR_H_
#define CALIB_PROTO_CODEC_ERROR_H_

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "calib/v1/errors.pb.h"

namespace calib {

using ErrorMetadata = std::initializer_list<std::pair<absl::string_view, std::string>>;

// The status code that calib/v1/errors.proto gives a reason; UNKNOWN for a number that it does not have.
absl::StatusCode CodeOfReason(v1::ErrorReason reason);
// Its name without the prefix: "SEQUENCE_GAP". Empty for a number that errors.proto does not have.
std::string ReasonName(v1::ErrorReason reason);

// A status with the reason's code, a message for people, and an ErrorInfo with the reason and these values as payload.
// What is not UTF-8 in the message or the values is replaced by U+FFFD.
absl::Status MakeError(v1::ErrorReason reason, absl::string_view message, ErrorMetadata metadata = {});
// The same from a status of quant/, whose message is kept. REQUIRES: !status.ok().
absl::Status MakeError(v1::ErrorReason reason, const absl::Status& status, ErrorMetadata metadata = {});

// INVALID_FIELD about one field of a request, by its path: the message begins with it ("rules[2].pattern: ..."), and
// metadata `field` has it.
absl::Status InvalidField(absl::string_view field, absl::string_view message);
// The error of a nested message seen from outside: the path at which it lies is put before the field's, in the message
// and in the metadata; an error that names no field is then about the nested message itself. An OK status stays.
absl::Status InField(absl::string_view path, const absl::Status& status);

// The ErrorInfo of a status made by MakeError.
std::optional<v1::ErrorInfo> GetErrorInfo(const absl::Status& status);
// Its reason; UNSPECIFIED when there is none, it is not calibd's, or it is newer than this build.
v1::ErrorReason GetReason(const absl::Status& status);

// The bytes of the `grpc-status-details-bin` trailer (google.rpc.Status) of a status, and back: a status with the code
// and message given and the ErrorInfo of the trailer, if it can be read.
std::string EncodeStatusDetails(const absl::Status& status);
absl::Status DecodeStatusDetails(absl::StatusCode code, absl::string_view message, absl::string_view details);

}  // namespace calib

#endif  // CALIB_PROTO_CODEC_ERROR_H_
