#include "client/cli/npy_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/cli/format.h"
#include "client/cli/npy_header.h"

namespace calib::cli {
namespace {

constexpr absl::string_view kMagic("\x93NUMPY", 6);
// NumPy itself writes a few hundred bytes and refuses to read more than 10,000.
constexpr uint32_t kMaxHeaderBytes = 1 << 20;

// Reads up to `size` bytes at `offset`; fewer at the end of the file. Negative on error, with errno.
ssize_t ReadAt(int descriptor, uint64_t offset, void* buffer, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n =
        pread(descriptor, static_cast<char*>(buffer) + done, size - done, static_cast<off_t>(offset + done));
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return n;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

}  // namespace

absl::StatusOr<NpyFile> NpyFile::Open(const std::string& path) {
  // Without O_NONBLOCK opening a named pipe would wait for its writer.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, path);
  NpyFile file(path, descriptor);
  const absl::Status status = file.ReadHeader();
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  return file;
}

NpyFile::NpyFile(NpyFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      type_(other.type_),
      shape_(std::move(other.shape_)),
      elements_(other.elements_),
      data_begin_(other.data_begin_) {}

NpyFile::~NpyFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status NpyFile::ReadHeader() {
  struct stat info;
  if (fstat(descriptor_, &info) != 0) return absl::ErrnoToStatus(errno, "cannot be examined");
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("not a regular file");
  const uint64_t file_bytes = static_cast<uint64_t>(info.st_size);
  if (file_bytes == 0) return absl::InvalidArgumentError("the file is empty");

  // Magic, version 1.0, 2.0 or 3.0, then the length of the header: 2 bytes in version 1, else 4; little-endian.
  uint8_t head[12] = {};
  const ssize_t head_bytes = ReadAt(descriptor_, 0, head, sizeof(head));
  if (head_bytes < 0) return absl::ErrnoToStatus(errno, "cannot be read");
  if (head_bytes < 6 || std::memcmp(head, kMagic.data(), kMagic.size()) != 0) {
    return absl::InvalidArgumentError("not a .npy file: it does not begin with \\x93NUMPY; write it with numpy.save");
  }
  const int version = head[6];
  if (head_bytes < (version == 1 ? 10 : 12)) return absl::InvalidArgumentError("truncated: it ends inside its header");
  if (version < 1 || version > 3 || head[7] != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("format version ", version, ".", head[7], " is not supported; 1.0, 2.0 and 3.0 are"));
  }
  uint32_t header_bytes = head[8] | head[9] << 8;
  if (version > 1) header_bytes |= uint32_t{head[10]} << 16 | uint32_t{head[11]} << 24;
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("its header claims ", header_bytes, " bytes; at most ", kMaxHeaderBytes, " are read"));
  }
  const uint64_t header_begin = version == 1 ? 10 : 12;
  std::string text(header_bytes, '\0');
  const ssize_t text_bytes = ReadAt(descriptor_, header_begin, text.data(), text.size());
  if (text_bytes < 0) return absl::ErrnoToStatus(errno, "cannot be read");
  if (static_cast<size_t>(text_bytes) < text.size()) {
    return absl::InvalidArgumentError("truncated: it ends inside its header");
  }
  absl::StatusOr<NpyHeader> header = ParseNpyHeader(text);
  if (!header.ok()) return header.status();

  if (header->descr == "<f4") {
    type_ = DataType::kFloat32;
  } else if (header->descr == "<f2") {
    type_ = DataType::kFloat16;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "element type '", header->descr.substr(0, 32),
        "' is not supported; calibd takes float32 ('<f4') and float16 ('<f2'): convert with numpy.astype"));
  }
  // With at most one axis longer than 1 both orders are the same.
  const auto long_axes = std::count_if(header->shape.begin(), header->shape.end(), [](uint64_t n) { return n > 1; });
  if (header->fortran_order && long_axes > 1) {
    return absl::InvalidArgumentError(
        "column-major (Fortran) order is not supported: convert with numpy.ascontiguousarray");
  }

  // Checked against what off_t can say, so that every byte offset below is exact.
  const uint64_t max_elements = std::numeric_limits<int64_t>::max() / ElementSize(type_) - kMaxHeaderBytes;
  elements_ = 1;
  bool overflow = false;
  for (const uint64_t extent : header->shape) {
    overflow = overflow || (extent != 0 && elements_ > max_elements / extent);
    elements_ = overflow ? elements_ : elements_ * extent;
    if (extent == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the array of shape ", FormatShape(header->shape), " has no elements"));
    }
  }
  if (overflow) {
    return absl::InvalidArgumentError(absl::StrCat("its shape ", FormatShape(header->shape), " is too large"));
  }
  data_begin_ = header_begin + header_bytes;
  const uint64_t expected = elements_ * ElementSize(type_);
  const uint64_t actual = file_bytes - std::min(file_bytes, data_begin_);
  if (actual != expected) {
    return absl::InvalidArgumentError(absl::StrCat(actual < expected ? "truncated" : "too long", ": shape ",
                                                   FormatShape(header->shape), " of '", header->descr, "' takes ",
                                                   expected, " bytes after the header, the file has ", actual));
  }
  shape_ = std::move(header->shape);
  return absl::OkStatus();
}

absl::Status NpyFile::Read(uint64_t first, absl::Span<uint8_t> bytes) const {
  const ssize_t n = ReadAt(descriptor_, data_begin_ + first * ElementSize(type_), bytes.data(), bytes.size());
  if (n < 0) return absl::ErrnoToStatus(errno, path_);
  if (static_cast<size_t>(n) < bytes.size()) {
    return absl::DataLossError(absl::StrCat(path_, ": the file became shorter while it was read"));
  }
  return absl::OkStatus();
}

}  // namespace calib::cli
