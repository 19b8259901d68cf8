#ifndef CALIB_TESTS_SUPPORT_NPY_READER_H_
#define CALIB_TESTS_SUPPORT_NPY_READER_H_

#include <cstdint>
#include <string>
#include <vector>

namespace calib::test {

// A float32 array of a golden .npy file, row-major.
struct NpyArray {
  std::vector<uint64_t> shape;
  std::vector<float> data;
};

// Reads a little-endian float32 C-order .npy file; aborts the test program on anything else.
NpyArray ReadNpy(const std::string& path);

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_NPY_READER_H_
