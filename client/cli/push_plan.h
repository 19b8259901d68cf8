#ifndef CALIB_CLIENT_CLI_PUSH_PLAN_H_
#define CALIB_CLIENT_CLI_PUSH_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/cli/npy_file.h"

namespace calib::cli {

// One layer to push: its file, cut into steps along the first axis. A file with one axis or none is a single step.
struct PushSource {
  std::string layer;
  NpyFile file;
  uint64_t steps;
  std::vector<uint64_t> step_shape;
  uint64_t step_elements;
  bool whole_steps = false;  // a step is handed over at once, since the layer's observer depends on order
};

// Opens LAYER=FILE.npy, cut at the first '='. INVALID_ARGUMENT without a '=' or a layer; else NpyFile::Open's errors.
absl::StatusOr<PushSource> OpenPushSource(const std::string& argument);

// One step of one source.
struct PushStep {
  size_t source;  // index
  uint64_t index;
};

// All steps: the first step of every source, the second of every source, and so on, or in an order drawn from
// `shuffle_seed`. RESOURCE_EXHAUSTED when there are more than 2^26.
absl::StatusOr<std::vector<PushStep>> PlanSteps(absl::Span<const PushSource> sources,
                                                std::optional<uint64_t> shuffle_seed);

// A run of elements of a step.
struct ElementRun {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// The part of a step that rank `rank` of `ranks` gets: its rows along the first axis, split like numpy.array_split: the
// first (rows mod ranks) ranks have one row more. It may be empty. The part is sent as a run of elements of the whole
// step, so channels keep their places whichever axis they lie along.
ElementRun PartOfStep(const PushSource& source, int ranks, int rank);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_PUSH_PLAN_H_
