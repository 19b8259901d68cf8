#include "tests/support/temporary_folder.h"

#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace calib::test {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = std::filesystem::temp_directory_path() / "calibd-test-XXXXXX";
  const char* const path = mkdtemp(pattern.data());
  if (path == nullptr) {
    std::perror(pattern.c_str());
    std::abort();
  }
  path_ = path;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;  // what is left, the system's own cleaning takes
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::Write(const std::string& name, const std::string& content) const {
  const std::string path = path_ + "/" + name;
  std::ofstream file(path, std::ios::binary);
  file << content;
  if (!file.flush()) {
    std::perror(path.c_str());
    std::abort();
  }
  return path;
}

}  // namespace calib::test
