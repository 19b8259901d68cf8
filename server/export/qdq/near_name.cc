#include "server/export/qdq/near_name.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace calib::server {
namespace {

// The comparison takes time by the square of the characters, and nothing interrupts it. Longer names are rarely typed.
constexpr size_t kMostCompared = 64;
constexpr size_t kMostCharacters = 512;
constexpr size_t kMostNames = 10'000;
constexpr size_t kLeastContained = 3;

// Without case and punctuation. Bytes of other scripts count as they are.
std::string Folded(absl::string_view name) {
  std::string folded;
  for (const char c : name.substr(0, kMostCharacters)) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || !absl::ascii_isascii(byte)) folded.push_back(absl::ascii_tolower(c));
  }
  return folded;
}

// Levenshtein distance.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::optional<std::string> NearName(absl::string_view wanted, absl::Span<const std::string> names) {
  const std::string sought = Folded(wanted);
  if (sought.empty()) return std::nullopt;
  const std::string* containing = nullptr;
  const std::string* near = nullptr;
  size_t least = sought.size() / 4 + 1;
  for (const std::string& name : names.subspan(0, kMostNames)) {
    const std::string candidate = Folded(name);
    if (candidate == sought) return name;
    if (sought.size() >= kLeastContained && absl::StrContains(candidate, sought) &&
        (containing == nullptr || name.size() < containing->size())) {
      containing = &name;
    }
    if (sought.size() > kMostCompared || candidate.size() > kMostCompared) continue;
    if (candidate.size() > sought.size() + least || sought.size() > candidate.size() + least) continue;
    if (const size_t distance = EditDistance(sought, candidate); distance < least) {
      least = distance;
      near = &name;
    }
  }
  if (containing != nullptr) return *containing;
  if (near != nullptr) return *near;
  return std::nullopt;
}

}  // namespace calib::server
