#include "quant/observer_config.h"

#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace calib {
namespace {

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// End of the UTF-8 sequence that begins at `i`; a byte that begins none stands for itself.
size_t NextCharacter(absl::string_view text, size_t i) {
  const unsigned char lead = static_cast<unsigned char>(text[i]);
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  size_t end = i + 1;
  while (end < i + length && end < text.size() && IsContinuation(text[end])) ++end;
  return end;
}

constexpr absl::string_view kKindNames[] = {"histogram", "minmax", "ema", "reference_histogram", "passive", "learned"};
constexpr absl::string_view kPolicyNames[] = {"wait", "fail", "close_partial"};

}  // namespace

absl::string_view ObserverKindName(ObserverKind kind) { return kKindNames[static_cast<size_t>(kind)]; }

absl::StatusOr<ObserverKind> ParseObserverKind(absl::string_view name) {
  for (size_t i = 0; i < std::size(kKindNames); ++i) {
    if (name == kKindNames[i]) return static_cast<ObserverKind>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown observer \"", name, "\"; use histogram, minmax, ema, reference_histogram, passive or learned"));
}

absl::string_view StragglerPolicyName(StragglerPolicy policy) { return kPolicyNames[static_cast<size_t>(policy)]; }

absl::StatusOr<StragglerPolicy> ParseStragglerPolicy(absl::string_view name) {
  for (size_t i = 0; i < std::size(kPolicyNames); ++i) {
    if (name == kPolicyNames[i]) return static_cast<StragglerPolicy>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown straggler policy \"", name, "\"; use wait, fail or close_partial"));
}

bool GlobMatch(absl::string_view pattern, absl::string_view text) {
  size_t p = 0;
  size_t t = 0;
  // The last `*` met takes as little as possible, and one character more each time that the rest does not match.
  // Earlier ones never need to be tried again: what they took is the least that lets the pattern reach the last one.
  size_t after_star = absl::string_view::npos;
  size_t star_end = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      after_star = ++p;
      star_end = t;
    } else if (p < pattern.size() && pattern[p] == '?') {
      ++p;
      t = NextCharacter(text, t);
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (after_star != absl::string_view::npos) {
      star_end = NextCharacter(text, star_end);
      p = after_star;
      t = star_end;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

size_t ObserverRules::Find(absl::string_view layer) const {
  size_t i = 0;
  while (i < rules_.size() && !GlobMatch(rules_[i].pattern, layer)) ++i;
  return i;
}

std::optional<ObserverConfig> ObserverRules::Match(absl::string_view layer) const {
  const size_t rule = Find(layer);
  if (rule == rules_.size()) return std::nullopt;
  return rules_[rule].observer;
}

}  // namespace calib
