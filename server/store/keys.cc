#include "server/store/keys.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace calib::server {
namespace {

constexpr char kStoreTag = '\x00';
constexpr char kSessionTag = '\x01';
constexpr absl::string_view kStoreName = "store";

// After a session's name and a zero byte.
constexpr char kOwnRow = '\x00';
constexpr char kWorkerRow = '\x01';
constexpr char kLayerRow = '\x02';

constexpr size_t kOrdinalBytes = 4;

std::string InQuotes(absl::string_view text) { return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text), "\""); }

}  // namespace

std::string RowKey::ToString() const {
  switch (kind) {
    case RowKind::kStore:
      return "the store's own row";
    case RowKind::kSession:
      return absl::StrCat("session ", InQuotes(session));
    case RowKind::kWorker:
      return absl::StrCat("session ", InQuotes(session), ", worker ", ordinal);
    case RowKind::kLayer:
      return absl::StrCat("session ", InQuotes(session), ", layer ", InQuotes(layer));
  }
  return "";
}

std::string SessionPrefix(absl::string_view session) {
  return absl::StrCat(absl::string_view(&kSessionTag, 1), session, absl::string_view("\0", 1));
}

std::string EncodeKey(const RowKey& key) {
  std::string encoded;
  switch (key.kind) {
    case RowKind::kStore:
      encoded.push_back(kStoreTag);
      absl::StrAppend(&encoded, kStoreName);
      break;
    case RowKind::kSession:
      encoded = SessionPrefix(key.session);
      encoded.push_back(kOwnRow);
      break;
    case RowKind::kWorker:
      encoded = SessionPrefix(key.session);
      encoded.push_back(kWorkerRow);
      for (int shift = 24; shift >= 0; shift -= 8) encoded.push_back(static_cast<char>(key.ordinal >> shift));
      break;
    case RowKind::kLayer:
      encoded = SessionPrefix(key.session);
      encoded.push_back(kLayerRow);
      absl::StrAppend(&encoded, key.layer);
      break;
  }
  return encoded;
}

absl::StatusOr<RowKey> DecodeKey(absl::string_view key) {
  const absl::Status unknown =
      absl::DataLossError(absl::StrCat("a row has the key ", InQuotes(key), ", which calibd does not write"));
  if (key.empty()) return unknown;
  if (key.front() == kStoreTag && key.substr(1) == kStoreName) return RowKey{.kind = RowKind::kStore};
  const size_t end = key.find('\0');
  if (key.front() != kSessionTag || end == absl::string_view::npos || end + 1 >= key.size()) return unknown;
  RowKey decoded{.session = key.substr(1, end - 1)};
  const absl::string_view rest = key.substr(end + 2);
  switch (key[end + 1]) {
    case kOwnRow:
      decoded.kind = RowKind::kSession;
      if (!rest.empty()) return unknown;
      return decoded;
    case kWorkerRow:
      decoded.kind = RowKind::kWorker;
      if (rest.size() != kOrdinalBytes) return unknown;
      for (const char byte : rest) decoded.ordinal = decoded.ordinal << 8 | static_cast<uint8_t>(byte);
      return decoded;
    case kLayerRow:
      decoded.kind = RowKind::kLayer;
      decoded.layer = rest;
      return decoded;
    default:
      return unknown;
  }
}

}  // namespace calib::server
