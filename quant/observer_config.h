#ifndef CALIB_QUANT_OBSERVER_CONFIG_H_
#define CALIB_QUANT_OBSERVER_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "quant/bfloat16_histogram.h"
#include "quant/ema_range.h"
#include "quant/heap_optional.h"
#include "quant/learned_state.h"
#include "quant/quant_spec.h"
#include "quant/reference_histogram.h"

namespace calib {

// What is collected of a layer.
enum class ObserverKind : uint8_t {
  kHistogram,           // Bfloat16Histogram beside a Range
  kMinMax,              // Range alone
  kEma,                 // EmaRange beside a Range
  kReferenceHistogram,  // ReferenceHistogram beside a Range; per tensor
  kPassive,             // nothing: its qparams are set from outside
  kLearned,             // LearnedState, begun from a Bfloat16Histogram beside a Range
};

// "histogram", "minmax", "ema", "reference_histogram", "passive", "learned".
absl::string_view ObserverKindName(ObserverKind kind);
// INVALID_ARGUMENT names what there is.
absl::StatusOr<ObserverKind> ParseObserverKind(absl::string_view name);

// Whether what is collected depends on the order and the boundaries of steps, so that steps can't be merged before they
// are folded in.
constexpr bool DependsOnOrder(ObserverKind kind) {
  return kind == ObserverKind::kEma || kind == ObserverKind::kReferenceHistogram;
}

// Whether what is collected has a Bfloat16Histogram.
constexpr bool CollectsHistogram(ObserverKind kind) {
  return kind == ObserverKind::kHistogram || kind == ObserverKind::kLearned;
}

// Whether a session with synchronous steps takes the layer's data in these alone.
constexpr bool NeedsSteps(ObserverKind kind) { return DependsOnOrder(kind) || kind == ObserverKind::kLearned; }

// An observer of one layer.
struct ObserverConfig {
  ObserverKind kind = ObserverKind::kHistogram;
  // Each channel along this axis apart; negative counts from the end. Unset: per tensor.
  std::optional<int> channel_axis;
  // Resolution of the histogram; a session constant.
  int mantissa_bits = Bfloat16Histogram::kMaxMantissaBits;
  EmaOptions ema;                        // of kEma
  ReferenceOptions reference;            // of kReferenceHistogram
  HeapOptional<LearnedOptions> learned;  // of kLearned, which has to have them

  friend bool operator==(const ObserverConfig&, const ObserverConfig&) = default;
};

// Whether the whole of `text` matches `pattern`, in which `*` stands for any run of characters, also none, `?` for one
// (a UTF-8 sequence), and every other character for itself. Time O(pattern x text), no recursion.
bool GlobMatch(absl::string_view pattern, absl::string_view text);

// Ordered rules from layer names to observers. Immutable once built; safe to read from any thread.
class ObserverRules {
 public:
  struct Rule {
    std::string pattern;
    std::optional<ObserverConfig> observer;  // unset: skip
    QuantSpec quant_spec;                    // of its layers, when a request says nothing

    friend bool operator==(const Rule&, const Rule&) = default;
  };

  // No rules: a per-tensor histogram of every layer.
  ObserverRules() = default;
  explicit ObserverRules(std::vector<Rule> rules) : rules_(std::move(rules)) {}

  // Index of the first rule that matches `layer`, or rules().size().
  size_t Find(absl::string_view layer) const;
  // The observer of `layer`; unset when it is skipped: by a rule, or because none matches.
  std::optional<ObserverConfig> Match(absl::string_view layer) const;
  const std::vector<Rule>& rules() const { return rules_; }

  friend bool operator==(const ObserverRules&, const ObserverRules&) = default;

 private:
  std::vector<Rule> rules_ = {{"*", ObserverConfig{}, QuantSpec{}}};
};

// What becomes of a synchronous step to which some rank does not contribute.
enum class StragglerPolicy : uint8_t {
  kWait,          // it stays open until all contributed
  kFail,          // at the deadline it fails for all
  kClosePartial,  // at the deadline it is closed with those that contributed
};

// "wait", "fail", "close_partial".
absl::string_view StragglerPolicyName(StragglerPolicy policy);
// INVALID_ARGUMENT names what there is.
absl::StatusOr<StragglerPolicy> ParseStragglerPolicy(absl::string_view name);

// A session's synchronous steps.
struct SynchronousOptions {
  uint32_t world_size = 1;  // ranks at first
  StragglerPolicy straggler_policy = StragglerPolicy::kWait;
  absl::Duration deadline;  // from a step's first contribution; zero for kWait, which has none
  uint32_t window = 16;     // steps that may be open at a time

  friend bool operator==(const SynchronousOptions&, const SynchronousOptions&) = default;
};

// What a session collects; never changes after the session was made.
struct SessionConfig {
  ObserverRules rules;
  // Resolution of every histogram of the session; each rule's observer has the same.
  int mantissa_bits = Bfloat16Histogram::kMaxMantissaBits;
  // Unset: the session has no synchronous steps.
  std::optional<SynchronousOptions> synchronous;

  friend bool operator==(const SessionConfig&, const SessionConfig&) = default;
};

}  // namespace calib

#endif  // CALIB_QUANT_OBSERVER_CONFIG_H_
