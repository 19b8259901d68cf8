#include "server/rpc/page.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"

namespace calib::server {
namespace {

// First byte of a decoded token, so that text which happens to be base64 is told from a token.
constexpr char kTokenMark = '\x01';

}  // namespace

absl::StatusOr<Page> ParsePage(int page_size, const std::string& token, size_t default_size, size_t max_size) {
  if (page_size < 0) {
    return InvalidField("page_size", absl::StrCat("is ", page_size, ": give 1 or more, or 0 for the default"));
  }
  Page page;
  page.size = page_size == 0 ? default_size : std::min(static_cast<size_t>(page_size), max_size);
  if (token.empty()) return page;
  std::string decoded;
  if (!absl::WebSafeBase64Unescape(token, &decoded) || decoded.size() < 2 || decoded[0] != kTokenMark) {
    return InvalidField("page_token", absl::StrCat("\"", absl::CHexEscape(token.substr(0, 64)),
                                                   "\" is not the next_page_token of an earlier answer: begin again "
                                                   "without one"));
  }
  page.after = decoded.substr(1);
  return page;
}

std::string NextPageToken(const std::string& last_name) {
  return absl::WebSafeBase64Escape(absl::StrCat(std::string(1, kTokenMark), last_name));
}

}  // namespace calib::server
