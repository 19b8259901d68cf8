#include "client/cli/format.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace calib::cli {
namespace {

constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E"};

// Scales `value` below 1000 and gives the index of its prefix.
int Scale(double* value) {
  int prefix = 0;
  while (*value >= 999.5 && prefix < 6) {
    *value /= 1000;
    ++prefix;
  }
  return prefix;
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string printable(text);
  for (size_t i = 0; i < printable.size(); ++i) {
    const unsigned char c = printable[i];
    if (c < 0x20 || c == 0x7f) printable[i] = '?';
    // U+0080 to U+009F, the second set of control characters, are 0xc2 0x80 to 0xc2 0x9f.
    if (c == 0xc2 && i + 1 < printable.size() && static_cast<unsigned char>(printable[i + 1]) < 0xa0) {
      printable.replace(i, 2, "?");
    }
  }
  return printable;
}

size_t DisplayWidth(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

std::string FormatNumber(double value) { return absl::StrFormat("%.6g", value == 0 ? 0 : value); }

std::string FormatNumbers(absl::Span<const double> values) {
  if (values.empty()) return "-";
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  if (*least == *greatest) return FormatNumber(*least);
  return absl::StrCat(FormatNumber(*least), "..", FormatNumber(*greatest));
}

std::string FormatBytes(double bytes) {
  const int prefix = Scale(&bytes);
  return absl::StrFormat("%.*f %sB", prefix > 0 && bytes < 99.5 ? 1 : 0, bytes, kPrefixes[prefix]);
}

std::string FormatCount(uint64_t count) {
  if (count < 1000000) return absl::StrCat(count);
  double value = static_cast<double>(count);
  const int prefix = Scale(&value);
  return absl::StrFormat("%.3g %s", value, kPrefixes[prefix]);
}

std::string FormatShape(absl::Span<const uint64_t> shape) {
  return absl::StrCat("(", absl::StrJoin(shape, ", "), shape.size() == 1 ? ",)" : ")");
}

}  // namespace calib::cli
