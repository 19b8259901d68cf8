#include "server/export/ncnn_table.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/codec/error.h"

namespace calib::server {
namespace {

// Why a line is no row; empty if it is one.
std::string ProblemOf(absl::string_view line, const std::vector<absl::string_view>& fields) {
  if (line.find('\t') != absl::string_view::npos) return "has a tab: ncnn takes spaces alone";
  if (line.front() == ' ' || fields.size() < 2) return "is no row of a key, a space and numbers";
  if (fields[0].size() > NcnnTable::kMostKeyBytes) return "has a key of more than 255 bytes";
  for (size_t i = 1; i < fields.size(); ++i) {
    float number = 0;
    // name=value: what tables of other bit widths have before their numbers.
    const bool setting = absl::StrContains(fields[i], '=');
    if (!setting && !absl::SimpleAtof(fields[i], &number)) return absl::StrCat("has \"", fields[i], "\" for a number");
  }
  return "";
}

}  // namespace

absl::StatusOr<NcnnTable> NcnnTable::Parse(absl::string_view text) {
  NcnnTable table;
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  while (!lines.empty() && absl::StripSuffix(lines.back(), "\r").empty()) lines.pop_back();
  for (size_t i = 0; i < lines.size(); ++i) {
    const absl::string_view line = absl::StripSuffix(lines[i], "\r");
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    std::string problem;
    if (line.empty()) {
      problem = "is blank, and ncnn reads no further";
    } else if (line.front() != '#') {  // keys that no layer has: how people leave layers out
      problem = ProblemOf(line, fields);
    }
    if (problem.empty() && line.front() != '#' && !table.rows_.emplace(std::string(fields[0]), i).second) {
      problem = absl::StrCat("has the key \"", fields[0], "\" once more");
    }
    if (!problem.empty()) {
      return MakeError(v1::ERROR_REASON_EXPORT_INPUT_INVALID,
                       absl::StrCat("the input is no ncnn calibration table: line ", i + 1, " ", problem));
    }
    table.lines_.emplace_back(line);
  }
  return table;
}

bool NcnnTable::EndsAsWeights(absl::string_view key) {
  const size_t mark = key.rfind(kWeightMark);
  if (mark == absl::string_view::npos || mark == 0) return false;
  const absl::string_view number = key.substr(mark + kWeightMark.size());
  return !number.empty() && absl::c_all_of(number, [](unsigned char c) { return absl::ascii_isdigit(c); });
}

uint64_t NcnnTable::MemoryOf(absl::string_view text) {
  // A line is a string in the table, a key in the index and a view while it is read, a field is another view.
  constexpr uint64_t kLine = 300, kField = 48;
  const auto lines = static_cast<uint64_t>(std::count(text.begin(), text.end(), '\n'));
  const auto fields = static_cast<uint64_t>(std::count(text.begin(), text.end(), ' '));
  return 3 * text.size() + kLine * (lines + 1) + kField * fields;
}

void NcnnTable::Put(const std::string& key, const std::string& numbers) {
  const auto [row, is_new] = rows_.emplace(key, lines_.size());
  if (is_new) lines_.emplace_back();
  lines_[row->second] = absl::StrCat(key, " ", numbers);
}

bool NcnnTable::HasWeights(absl::string_view layer) const {
  return rows_.find(absl::StrCat(layer, kWeightMark, "0")) != rows_.end();
}

std::string NcnnTable::ToText() const { return absl::StrCat(absl::StrJoin(lines_, "\n"), "\n"); }

}  // namespace calib::server
