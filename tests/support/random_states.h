#ifndef CALIB_TESTS_SUPPORT_RANDOM_STATES_H_
#define CALIB_TESTS_SUPPORT_RANDOM_STATES_H_

#include <vector>

#include "quant/layer_statistics.h"
#include "quant/observer_config.h"
#include "tests/support/random_tensors.h"

namespace calib::test {

// Observers of every kind, reference rule, optimizer and convention, per tensor and (where there is such a thing) per
// channel, all with this resolution, as session configs can have them.
std::vector<ObserverConfig> EveryObserver(int mantissa_bits);

// A state that this observer can be in: with no channels, with channels and no values, with few values, with steps or
// gradients, with huge counts. A channel axis has to be 1. The same seed gives the same state.
LayerStatistics RandomState(Rng& rng, const ObserverConfig& observer);

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_RANDOM_STATES_H_
