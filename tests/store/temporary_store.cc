#include "tests/store/temporary_store.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace calib::server::test {

TemporaryFolder::TemporaryFolder() {
  // In memory if there is such a place: these tests sync and remove thousands of files.
  const std::filesystem::path memory = "/dev/shm";
  const bool in_memory = access(memory.c_str(), W_OK) == 0;
  std::string name = ((in_memory ? memory : std::filesystem::temp_directory_path()) / "calibd_store_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() { std::filesystem::remove_all(path_); }

std::vector<std::string> TemporaryFolder::Files() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string TemporaryFolder::Read(const std::string& file) const {
  std::ifstream stream(path_ + "/" + file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void TemporaryFolder::Write(const std::string& file, const std::string& bytes) const {
  std::ofstream stream(path_ + "/" + file, std::ios::binary | std::ios::trunc);
  stream << bytes;
  if (!stream.flush()) std::abort();
}

void TemporaryFolder::Remove(const std::string& file) const { std::filesystem::remove(path_ + "/" + file); }

void TemporaryFolder::CopyFrom(const std::string& path) const {
  for (const std::string& file : Files()) Remove(file);
  std::filesystem::copy(path, path_);
}

std::unique_ptr<Store> StoreIn(const TemporaryFolder& folder, rocksdb::Env* env) {
  return NewRocksDbStore({.path = folder.path(), .env = env});
}

}  // namespace calib::server::test
