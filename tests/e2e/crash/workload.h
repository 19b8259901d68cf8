#ifndef CALIB_TESTS_E2E_CRASH_WORKLOAD_H_
#define CALIB_TESTS_E2E_CRASH_WORKLOAD_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "calib/v1/session.pb.h"
#include "quant/layer_statistics.h"
#include "quant/tensor_view.h"

namespace calib::test {

// What the workers of the crash tests observe. The seed, the worker's number and the step's number decide everything,
// so that whoever knows how many steps were taken can tell what they add up to, by quant/ alone.

// One step: one tensor of one layer, small enough to be one message.
struct WorkStep {
  std::string layer;
  bool raw = false;  // by SendRaw, else by Observe
  std::vector<uint64_t> shape;
  std::vector<float> values;

  // Borrows.
  TensorView view() const;
};

// Steps count from 1.
WorkStep StepOf(uint64_t seed, int worker, uint64_t step);

// The layers: two histograms per tensor, two per channel, two ranges.
const std::map<std::string, ObserverConfig>& WorkLayers();
v1::SessionConfig WorkConfig();
std::string WorkerId(int worker);

// Statistics by layer; those without data are left out.
using SessionStatistics = std::map<std::string, LayerStatistics>;

// The sum of steps 1 to steps[w] of each worker w.
SessionStatistics SumOfSteps(uint64_t seed, const std::vector<uint64_t>& steps);

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_CRASH_WORKLOAD_H_
