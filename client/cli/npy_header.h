#ifndef CALIB_CLIENT_CLI_NPY_HEADER_H_
#define CALIB_CLIENT_CLI_NPY_HEADER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace calib::cli {

// The dictionary at the head of a .npy file (numpy.lib.format).
struct NpyHeader {
  std::string descr;           // element type, such as "<f4"
  bool fortran_order = false;  // column-major
  std::vector<uint64_t> shape;
};

// Parses the text of a header: a Python literal such as "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 32), }".
// INVALID_ARGUMENT says what is wrong, without the file's name.
absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view text);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_NPY_HEADER_H_
