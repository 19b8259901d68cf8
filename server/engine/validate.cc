#include "server/engine/validate.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/utf8.h"

namespace calib::server {
namespace {

constexpr size_t kMaxSessionNameBytes = 128;
constexpr size_t kMaxWorkerIdBytes = 64;
constexpr size_t kMaxDisplayNameBytes = 128;
constexpr size_t kMaxQuotedBytes = 128;

absl::Status Malformed(absl::string_view field, absl::string_view value, absl::string_view rule) {
  return InvalidField(field, absl::StrCat(Quoted(value), " is not ", rule));
}

}  // namespace

absl::Status ValidateSessionName(absl::string_view name) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!name.empty() && name.size() <= kMaxSessionNameBytes && absl::ascii_isalnum(name[0]) &&
      std::all_of(name.begin(), name.end(), allowed)) {
    return absl::OkStatus();
  }
  return Malformed("session", name,
                   "1 to 128 characters of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit");
}

absl::Status ValidateWorkerId(absl::string_view id) {
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '-'; };
  if (!id.empty() && id.size() <= kMaxWorkerIdBytes && std::all_of(id.begin(), id.end(), allowed) &&
      !absl::StartsWith(id, kImportWorkerPrefix)) {
    return absl::OkStatus();
  }
  return Malformed("worker_id", id, "1 to 64 characters of a-z, A-Z, 0-9 and '-' that do not begin with \"import-\"");
}

absl::Status ValidateDisplayName(absl::string_view name) {
  if (name.size() <= kMaxDisplayNameBytes && IsValidUtf8(name)) return absl::OkStatus();
  return Malformed("display_name", name, "UTF-8 of at most 128 bytes");
}

absl::Status ValidateLayerName(absl::string_view name, const Limits& limits) {
  if (name.empty()) return MakeError(v1::ERROR_REASON_LAYER_NAME_INVALID, "a layer name is empty; give it a name");
  if (name.size() > limits.max_layer_name_bytes) {
    return LimitExceeded(absl::StrCat("layer name ", Quoted(name), " has ", name.size(), " bytes"),
                         "--max-layer-name-bytes", limits.max_layer_name_bytes, name);
  }
  if (!IsValidUtf8(name)) {
    return MakeError(v1::ERROR_REASON_LAYER_NAME_INVALID,
                     absl::StrCat("layer name ", Quoted(name), " is not UTF-8; encode it so"),
                     {{"layer", Quoted(name)}});
  }
  return absl::OkStatus();
}

absl::Status LimitExceeded(absl::string_view what, absl::string_view option, uint64_t limit, absl::string_view layer) {
  const std::string message = absl::StrCat(what, "; the limit is ", limit, " (", option, ")");
  if (layer.empty()) {
    return MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, message,
                     {{"option", std::string(option)}, {"limit", absl::StrCat(limit)}});
  }
  return MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, message,
                   {{"option", std::string(option)}, {"limit", absl::StrCat(limit)}, {"layer", std::string(layer)}});
}

std::string Quoted(absl::string_view value) {
  if (value.size() > kMaxQuotedBytes) return absl::StrCat("\"", absl::CHexEscape(value.substr(0, 64)), "...\"");
  return absl::StrCat("\"", IsValidUtf8(value) ? absl::Utf8SafeCHexEscape(value) : absl::CHexEscape(value), "\"");
}

}  // namespace calib::server
