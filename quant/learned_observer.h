#ifndef CALIB_QUANT_LEARNED_OBSERVER_H_
#define CALIB_QUANT_LEARNED_OBSERVER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "quant/layer_statistics.h"
#include "quant/learned_state.h"
#include "quant/observer_config.h"
#include "quant/quant_rules.h"
#include "quant/quant_spec.h"

namespace calib {

// Layers whose observer is learned. First they collect statistics; InitializeLearned reads scale and zero point off
// them; from then on these follow the gradients, one step at a time, and further statistics change nothing but the
// histogram. REQUIRES everywhere: CheckLearnedOptions(*statistics.config().learned).ok() when config().kind is
// kLearned.

// The quantizer: config.learned->spec, per channel iff there is a channel axis. REQUIRES: config.kind is kLearned.
QuantSpec LearnedSpec(const ObserverConfig& config);

// Whether scale and zero point have a value; false for layers of other kinds.
bool IsInitialized(const LayerStatistics& statistics);

// Gives every channel the parameters that method options.initial finds for options.spec: each channel its own if the
// observer has a channel axis. A channel without finite values begins from the range [0, 0]. Starts anew when they had
// some. FAILED_PRECONDITION without a finite value in the layer, OUT_OF_RANGE when the channels' counts add up to 2^64
// or more; nothing changes then. REQUIRES: config().kind is kLearned.
absl::Status InitializeLearned(LayerStatistics* statistics);

// Whether a step's gradients, one a channel, can be applied. `elements`: those of the layer's tensor on all ranks
// together, of a replicated one on one rank, for LSQ's factor; not read with plain_gradients.
// FAILED_PRECONDITION: not initialized. INVALID_ARGUMENT: another number of gradients than channels; one that is not
// finite in float32, times the factor; no elements.
absl::Status CheckGradients(const LayerStatistics& statistics, absl::Span<const LearnedGradient> gradients,
                            uint64_t elements);
// One step of the optimizer. REQUIRES: CheckGradients(*statistics, gradients, elements).ok().
void ApplyGradients(LayerStatistics* statistics, absl::Span<const LearnedGradient> gradients, uint64_t elements);

// What is learned, one a channel, zero points rounded to codes. REQUIRES: IsInitialized(statistics).
std::vector<QParams> LearnedQParams(const LayerStatistics& statistics);

}  // namespace calib

#endif  // CALIB_QUANT_LEARNED_OBSERVER_H_
