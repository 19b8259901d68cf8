#include "server/store/rocksdb_status.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace calib::server {
namespace {

bool IsAboutPermission(absl::string_view why) {
  return absl::StrContains(why, "Permission denied") || absl::StrContains(why, "Read-only file system") ||
         absl::StrContains(why, "Operation not permitted");
}

}  // namespace

absl::Status FromRocksDb(const rocksdb::Status& status, absl::string_view what, absl::string_view path) {
  if (status.ok()) return absl::OkStatus();
  const std::string why = absl::StrReplaceAll(status.ToString(), {{"\n", " "}});
  const std::string begin = absl::StrCat(what, " ", path, ": ");
  if (status.IsNoSpace() || absl::StrContains(why, "No space left")) {
    return absl::UnavailableError(absl::StrCat(begin, "no space left on its file system; make room"));
  }
  if (IsAboutPermission(why)) {
    return absl::UnavailableError(absl::StrCat(begin, why, "; let this user write there"));
  }
  if (status.IsIOError() && absl::StrContains(why, "/LOCK: ")) {
    return absl::UnavailableError(
        absl::StrCat(begin, "another process holds the store; stop it, or give this server a folder of its own"));
  }
  // Every file was there when it was last closed.
  if (status.IsCorruption() || status.IsNotFound() || status.IsPathNotFound() || status.IsInvalidArgument() ||
      status.IsNotSupported() || absl::StrContains(why, "No such file")) {
    return absl::DataLossError(absl::StrCat(begin, "it is damaged: ", why, "; ", kRestore));
  }
  return absl::UnavailableError(absl::StrCat(begin, why, "; see to the disk"));
}

}  // namespace calib::server
