#ifndef CALIB_TESTS_STORE_STORE_FOLDER_H_
#define CALIB_TESTS_STORE_STORE_FOLDER_H_

#include <memory>
#include <string>
#include <vector>

#include "server/store/rocksdb_store.h"

namespace calib::server::test {

// A folder that is there while this is, with all that is in it. Its files can be read and damaged.
class StoreFolder {
 public:
  StoreFolder();
  ~StoreFolder();
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;

  const std::string& path() const { return path_; }
  // Names of the files directly in it, sorted.
  std::vector<std::string> Files() const;
  std::string Read(const std::string& file) const;
  void Write(const std::string& file, const std::string& bytes) const;
  void Remove(const std::string& file) const;
  // Makes this one as the other: files with these bytes and no others.
  void CopyFrom(const std::string& path) const;

 private:
  std::string path_;
};

// A RocksDB store in this folder.
std::unique_ptr<Store> StoreIn(const StoreFolder& folder, rocksdb::Env* env = nullptr);

}  // namespace calib::server::test

#endif  // CALIB_TESTS_STORE_STORE_FOLDER_H_
