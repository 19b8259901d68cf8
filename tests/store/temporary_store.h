#ifndef CALIB_TESTS_STORE_TEMPORARY_STORE_H_
#define CALIB_TESTS_STORE_TEMPORARY_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "server/store/rocksdb_store.h"

namespace calib::server::test {

// A folder that is there while this is, with all that is in it. Its files can be read and damaged.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

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
std::unique_ptr<Store> StoreIn(const TemporaryFolder& folder, rocksdb::Env* env = nullptr);

}  // namespace calib::server::test

#endif  // CALIB_TESTS_STORE_TEMPORARY_STORE_H_
