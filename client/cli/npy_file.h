#ifndef CALIB_CLIENT_CLI_NPY_FILE_H_
#define CALIB_CLIENT_CLI_NPY_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/data_type.h"

namespace calib::cli {

// An open .npy file (format versions 1 to 3) with a row-major array of little-endian float32 or float16. Reading is
// thread-safe.
class NpyFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED, ... when the file can't be opened; INVALID_ARGUMENT for anything but such an array of
  // at least one element that fills the rest of the file. Every message begins with the path.
  static absl::StatusOr<NpyFile> Open(const std::string& path);
  ~NpyFile();
  NpyFile(NpyFile&& other) noexcept;
  NpyFile& operator=(NpyFile&&) = delete;

  const std::string& path() const { return path_; }
  DataType type() const { return type_; }
  // Empty for a scalar.
  const std::vector<uint64_t>& shape() const { return shape_; }
  // Product of shape(), at least 1.
  uint64_t elements() const { return elements_; }

  // Reads the elements from `first` on, as many as fill `bytes`. DATA_LOSS when the file became shorter since it was
  // opened.
  absl::Status Read(uint64_t first, absl::Span<uint8_t> bytes) const;

 private:
  NpyFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  absl::Status ReadHeader();

  std::string path_;
  int descriptor_;  // -1 after a move
  DataType type_ = DataType::kFloat32;
  std::vector<uint64_t> shape_;
  uint64_t elements_ = 0;
  uint64_t data_begin_ = 0;  // bytes before the first element
};

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_NPY_FILE_H_
