#ifndef CALIB_CLIENT_CLI_FORMAT_H_
#define CALIB_CLIENT_CLI_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace calib::cli {

// `text` fit for a terminal: control characters, which a layer's name may have, become '?'.
std::string Printable(absl::string_view text);

// Columns that UTF-8 text takes: its code points.
size_t DisplayWidth(absl::string_view text);

// Six significant digits; -0 is 0.
std::string FormatNumber(double value);
// One number; of several (one a channel) the least and the greatest: "0.01..0.5".
std::string FormatNumbers(absl::Span<const double> values);
// "812 B", "8.2 MB"; powers of 1000.
std::string FormatBytes(double bytes);
// "8125", "8.13 M"; powers of 1000.
std::string FormatCount(uint64_t count);
// "(6, 32)", "(6,)", "()", as NumPy writes shapes.
std::string FormatShape(absl::Span<const uint64_t> shape);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_FORMAT_H_
