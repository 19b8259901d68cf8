#include "tests/support/npy_reader.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

namespace calib::test {
namespace {

[[noreturn]] void Die(const std::string& path, const char* what) {
  std::fprintf(stderr, "%s: %s\n", path.c_str(), what);
  std::abort();
}

}  // namespace

NpyArray ReadNpy(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (bytes.size() < 10 || bytes.compare(0, 6, "\x93NUMPY") != 0) Die(path, "not an .npy file");
  const size_t header = static_cast<uint8_t>(bytes[8]) | static_cast<uint8_t>(bytes[9]) << 8;
  const std::string text = bytes.substr(10, header);
  if (text.find("'<f4'") == std::string::npos) Die(path, "not float32");
  if (text.find("'fortran_order': False") == std::string::npos) Die(path, "not C order");
  NpyArray array;
  size_t elements = 1;
  const size_t open = text.find('('), close = text.find(')');
  for (size_t i = open + 1; i < close;) {
    char* end;
    const uint64_t extent = std::strtoull(text.c_str() + i, &end, 10);
    array.shape.push_back(extent);
    elements *= extent;
    i = static_cast<size_t>(end - text.c_str());
    while (i < close && (text[i] == ',' || text[i] == ' ')) ++i;
  }
  if (bytes.size() != 10 + header + 4 * elements) Die(path, "truncated");
  array.data.resize(elements);
  std::memcpy(array.data.data(), bytes.data() + 10 + header, 4 * elements);
  return array;
}

}  // namespace calib::test
