#include "server/store/folder_usage.h"

#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rocksdb/env.h"

namespace calib::server {

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot make the folder ", path, ": ", error.message(),
                                             "; name another one, or let this user write there"));
}

FolderUsage::FolderUsage(rocksdb::Env* env, const Clock* clock, std::string path)
    : env_(env), clock_(clock), path_(std::move(path)) {}

StoreUsage FolderUsage::Get() const {
  MutexLock lock(&mutex_);
  const absl::Duration now = clock_->Elapsed();
  if (now < next_) return usage_;
  next_ = now + absl::Seconds(1);
  usage_ = {};
  std::vector<rocksdb::Env::FileAttributes> files;
  if (!env_->GetChildrenFileAttributes(path_, &files).ok()) return usage_;
  for (const rocksdb::Env::FileAttributes& file : files) usage_.bytes += file.size_bytes;
  if (!env_->GetFreeSpace(path_, &usage_.free_bytes).ok()) usage_.free_bytes = 0;
  return usage_;
}

}  // namespace calib::server
