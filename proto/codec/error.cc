#include "proto/codec/error.h"

#include <map>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/codec/utf8.h"

namespace calib {
namespace {

constexpr char kReasonPrefix[] = "ERROR_REASON_";
constexpr char kDomain[] = "calibd";
constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kFieldKey[] = "field";

// Equal messages to equal bytes, so that equal errors compare equal; the order of a map is random otherwise.
std::string SerializeInOrder(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

absl::Status WithErrorInfo(absl::StatusCode code, absl::string_view message, const v1::ErrorInfo& info) {
  absl::Status status(code, ToValidUtf8(message));
  status.SetPayload(kErrorInfoUrl, absl::Cord(SerializeInOrder(info)));
  return status;
}

}  // namespace

absl::StatusCode CodeOfReason(v1::ErrorReason reason) {
  static const auto* const codes = [] {
    auto* const table = new std::map<int, absl::StatusCode>;
    const google::protobuf::EnumDescriptor* const reasons = v1::ErrorReason_descriptor();
    for (int i = 0; i < reasons->value_count(); ++i) {
      const google::protobuf::EnumValueDescriptor* const value = reasons->value(i);
      table->emplace(value->number(), static_cast<absl::StatusCode>(value->options().GetExtension(v1::status_code)));
    }
    return table;
  }();
  const auto found = codes->find(reason);
  return found == codes->end() ? absl::StatusCode::kUnknown : found->second;
}

std::string ReasonName(v1::ErrorReason reason) {
  return std::string(absl::StripPrefix(v1::ErrorReason_Name(reason), kReasonPrefix));
}

absl::Status MakeError(v1::ErrorReason reason, absl::string_view message, ErrorMetadata metadata) {
  v1::ErrorInfo info;
  info.set_reason(ReasonName(reason));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) (*info.mutable_metadata())[std::string(key)] = ToValidUtf8(value);
  return WithErrorInfo(CodeOfReason(reason), message, info);
}

absl::Status MakeError(v1::ErrorReason reason, const absl::Status& status, ErrorMetadata metadata) {
  return MakeError(reason, status.message(), metadata);
}

absl::Status InvalidField(absl::string_view field, absl::string_view message) {
  return MakeError(v1::ERROR_REASON_INVALID_FIELD, absl::StrCat(field, ": ", message),
                   {{kFieldKey, std::string(field)}});
}

absl::Status InField(absl::string_view path, const absl::Status& status) {
  std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  if (!info.has_value()) return status;
  std::string& field = (*info->mutable_metadata())[kFieldKey];
  const absl::string_view separator = field.empty() ? ": " : ".";
  field = field.empty() ? std::string(path) : absl::StrCat(path, ".", field);
  return WithErrorInfo(status.code(), absl::StrCat(path, separator, status.message()), *info);
}

std::optional<v1::ErrorInfo> GetErrorInfo(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl);
  v1::ErrorInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) return std::nullopt;
  return info;
}

v1::ErrorReason GetReason(const absl::Status& status) {
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  v1::ErrorReason reason;
  if (!info.has_value() || info->domain() != kDomain ||
      !v1::ErrorReason_Parse(absl::StrCat(kReasonPrefix, info->reason()), &reason)) {
    return v1::ERROR_REASON_UNSPECIFIED;
  }
  return reason;
}

std::string EncodeStatusDetails(const absl::Status& status) {
  v1::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(ToValidUtf8(status.message()));
  if (const absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl); payload.has_value()) {
    google::protobuf::Any* const detail = details.add_details();
    detail->set_type_url(kErrorInfoUrl);
    detail->set_value(std::string(*payload));
  }
  return SerializeInOrder(details);
}

absl::Status DecodeStatusDetails(absl::StatusCode code, absl::string_view message, absl::string_view details) {
  absl::Status status(code, message);
  v1::Status parsed;
  if (status.ok() || !parsed.ParseFromArray(details.data(), static_cast<int>(details.size()))) return status;
  for (const google::protobuf::Any& detail : parsed.details()) {
    v1::ErrorInfo info;
    if (detail.type_url() != kErrorInfoUrl || !info.ParseFromString(detail.value())) continue;
    status.SetPayload(kErrorInfoUrl, absl::Cord(SerializeInOrder(info)));
    break;
  }
  return status;
}

}  // namespace calib
