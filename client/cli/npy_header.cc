#include "client/cli/npy_header.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace calib::cli {
namespace {

// NumPy 2 allows 64 axes.
constexpr size_t kMaxAxes = 64;

class Parser {
 public:
  explicit Parser(absl::string_view text) : rest_(text) {}

  absl::StatusOr<NpyHeader> Parse() {
    NpyHeader header;
    bool has_descr = false, has_order = false, has_shape = false;
    if (!Take("{")) return Malformed("does not begin with {");
    while (!Take("}")) {
      std::string key;
      if (!TakeString(&key) || !Take(":")) return Malformed("a key is missing");
      absl::Status status;
      bool* seen;
      if (key == "descr") {
        status = ParseDescr(&header.descr);
        seen = &has_descr;
      } else if (key == "fortran_order") {
        status = ParseBool(&header.fortran_order);
        seen = &has_order;
      } else if (key == "shape") {
        status = ParseShape(&header.shape);
        seen = &has_shape;
      } else {
        return Malformed(absl::StrCat("unknown key '", key.substr(0, 32), "'"));
      }
      if (!status.ok()) return status;
      if (std::exchange(*seen, true)) return Malformed(absl::StrCat("key '", key, "' occurs twice"));
      if (!Take(",") && !Peek("}")) return Malformed("a comma is missing");
    }
    if (!absl::StripAsciiWhitespace(rest_).empty()) return Malformed("text follows the }");
    if (!has_descr || !has_order || !has_shape) return Malformed("descr, fortran_order or shape is missing");
    return header;
  }

 private:
  static absl::Status Malformed(absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("its header is malformed: ", what));
  }

  void SkipBlanks() { rest_ = absl::StripLeadingAsciiWhitespace(rest_); }
  bool Peek(absl::string_view token) {
    SkipBlanks();
    return rest_.substr(0, token.size()) == token;
  }
  bool Take(absl::string_view token) {
    if (!Peek(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  bool TakeString(std::string* value) {
    SkipBlanks();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return false;
    const size_t end = rest_.find(rest_[0], 1);
    if (end == absl::string_view::npos) return false;
    *value = std::string(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return true;
  }

  absl::Status ParseDescr(std::string* descr) {
    if (Peek("["))
      return absl::InvalidArgumentError("it holds a structured array; calibd takes plain float32 or float16");
    return TakeString(descr) ? absl::OkStatus() : Malformed("descr is not a string");
  }

  absl::Status ParseBool(bool* value) {
    *value = Take("True");
    return *value || Take("False") ? absl::OkStatus() : Malformed("fortran_order is neither True nor False");
  }

  absl::Status ParseShape(std::vector<uint64_t>* shape) {
    if (!Take("(")) return Malformed("shape is not a tuple");
    while (!Take(")")) {
      SkipBlanks();
      size_t digits = 0;
      while (digits < rest_.size() && absl::ascii_isdigit(rest_[digits])) ++digits;
      uint64_t extent = 0;
      if (!absl::SimpleAtoi(rest_.substr(0, digits), &extent))
        return Malformed("shape is not a tuple of whole numbers");
      rest_.remove_prefix(digits);
      // Python 2 wrote long integers with an L.
      Take("L");
      shape->push_back(extent);
      if (shape->size() > kMaxAxes) return Malformed(absl::StrCat("shape has more than ", kMaxAxes, " axes"));
      if (!Take(",") && !Peek(")")) return Malformed("shape lacks a comma or its )");
    }
    return absl::OkStatus();
  }

  absl::string_view rest_;
};

}  // namespace

absl::StatusOr<NpyHeader> ParseNpyHeader(absl::string_view text) { return Parser(text).Parse(); }

}  // namespace calib::cli
