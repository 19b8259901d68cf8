#ifndef CALIB_TESTS_SUPPORT_TEMPORARY_FOLDER_H_
#define CALIB_TESTS_SUPPORT_TEMPORARY_FOLDER_H_

#include <string>

namespace calib::test {

// A fresh folder that goes away with this. Ends the test program when it can't be made or written.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  // Writes a file and returns its path.
  std::string Write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_TEMPORARY_FOLDER_H_
