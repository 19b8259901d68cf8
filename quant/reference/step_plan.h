#ifndef CALIB_QUANT_REFERENCE_STEP_PLAN_H_
#define CALIB_QUANT_REFERENCE_STEP_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "quant/range.h"
#include "quant/reference_histogram.h"

// The rules of ReferenceHistogram, one file each. Private to quant/.
namespace calib::reference {

// What the state is before a step. Borrowed.
struct State {
  const ReferenceOptions& options;  // nothing 0
  const ReferenceGrid& grid;
  const Range& range;
  bool empty;
};

// What a step does to the state. Made before the step is counted.
struct StepPlan {
  // How the old counts get into the new histogram.
  enum class Carry : uint8_t {
    kDrop,      // they don't
    kAdd,       // bin by bin
    kPoint,     // all into one bin
    kShift,     // bin by bin, `start` bins further up
    kResample,  // as the rule resamples from the old range to the new one
  };

  ReferenceGrid count_grid;  // to count the step on
  ReferenceGrid grid;        // of the counts afterwards
  float min = 0;             // range() afterwards
  float max = 0;
  Carry carry = Carry::kDrop;
  // kPoint: the bin. kShift: how far. kResample of the rules that align: the old histogram's first cell.
  int64_t start = 0;
  int64_t cells_per_bin = 0;  // kResample of the rules that align: cells of one bin of the new histogram
  ReferenceGrid old_grid;     // kResample: of the counts before
};

// REQUIRES for all: step.count > 0, with finite extremes. RESOURCE_EXHAUSTED when it would grow beyond max_bins.
absl::StatusOr<StepPlan> PlanMegengine(const State& state, const Range& step);
absl::StatusOr<StepPlan> PlanPytorch(const State& state, const Range& step);
StepPlan PlanPytorchCurrent(const State& state, const Range& step);
absl::StatusOr<StepPlan> PlanMxnet(const State& state, const Range& step);

// The counts after a step: `counts` is the old ones and becomes the new ones.
using Counted = absl::Span<const uint64_t>;
void CombineMegengine(const StepPlan& plan, Counted step, std::vector<double>* counts);
void CombinePytorch(const StepPlan& plan, Counted step, std::vector<double>* counts);
void CombinePytorchCurrent(const StepPlan& plan, Counted step, std::vector<double>* counts);
void CombineMxnet(const StepPlan& plan, Counted step, std::vector<double>* counts);

// The grid that numpy.histogram makes of a range: widened by 0.5 on both sides when it is a point.
ReferenceGrid NumpyGrid(double low, double high, uint32_t bins);
// The grid that torch.histc makes of a range for a tensor with the step's extremes.
ReferenceGrid HistcGrid(double low, double high, const Range& step, uint32_t bins);
// The bin that the rule's framework puts a finite value into; -1: none.
int64_t BinOf(ReferenceRule rule, const ReferenceGrid& grid, float value);

// The error of a histogram that would take `cells` to combine.
absl::Status TooLarge(const State& state, const Range& step, double cells);

// A histogram of old counts repeated `upsample` times a bin, from cell `start` on, cumulated and read every
// `cells_per_bin` cells.
class Cumulated {
 public:
  Cumulated(absl::Span<const double> counts, int64_t upsample, int64_t start, int64_t cells_per_bin);
  // The sum of all cells before the end of bin `bin`.
  double At(int64_t bin) const;

 private:
  absl::Span<const double> counts_;
  std::vector<double> below_;  // sum of the counts before each
  int64_t upsample_, start_, cells_per_bin_;
};

// Independent of the thread's rounding mode.
template <typename Real>
Real RoundHalfEven(Real x);

// The nearest float32 that is finite.
float ToFiniteFloat(double x);

}  // namespace calib::reference

#endif  // CALIB_QUANT_REFERENCE_STEP_PLAN_H_
