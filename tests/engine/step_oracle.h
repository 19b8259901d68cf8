#ifndef CALIB_TESTS_ENGINE_STEP_ORACLE_H_
#define CALIB_TESTS_ENGINE_STEP_ORACLE_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "calib/v1/observe.pb.h"
#include "quant/layer_statistics.h"
#include "tests/engine/step_tensors.h"

namespace calib::server::test {

// One process that observes, step by step, the union of the tensors of the ranks that counted, and learns from the
// average of their gradients. Computed from the tensors themselves, not from what ranks send.
class StepOracle {
 public:
  StepOracle();

  // Takes in a step of these ranks, in rank order.
  void Fold(const std::vector<std::shared_ptr<const RankTensors>>& ranks);

  // Of a layer of SimulatedLayers(). Without channels before any rank had it.
  const LayerStatistics& layer(size_t index) const { return layers_[index]; }

  // Fails the test unless `result` tells a rank with these tensors and handles what the last step gave.
  void ExpectResult(const v1::StepResult& result, const RankTensors& tensors, const LayerHandles& handles) const;

 private:
  void FoldTensors(size_t layer, const LayerTensor& all);
  void FoldGradients(size_t layer, const std::vector<std::shared_ptr<const RankTensors>>& ranks);

  std::vector<LayerStatistics> layers_;
  // Of the last step: which layers some rank gave, and their tensors' ranges by channel.
  LayerSet given_;
  std::vector<std::vector<Range>> ranges_;
};

}  // namespace calib::server::test

#endif  // CALIB_TESTS_ENGINE_STEP_ORACLE_H_
