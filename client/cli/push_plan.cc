#include "client/cli/push_plan.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace calib::cli {
namespace {

constexpr uint64_t kMaxSteps = uint64_t{1} << 26;

}  // namespace

absl::StatusOr<PushSource> OpenPushSource(const std::string& argument) {
  const size_t equals = argument.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("'", argument, "' is not LAYER=FILE.npy"));
  }
  absl::StatusOr<NpyFile> file = NpyFile::Open(argument.substr(equals + 1));
  if (!file.ok()) return file.status();
  PushSource source{argument.substr(0, equals), *std::move(file), 1, {}, 0};
  source.step_shape = source.file.shape();
  if (source.step_shape.size() > 1) {
    source.steps = source.step_shape.front();
    source.step_shape.erase(source.step_shape.begin());
  }
  source.step_elements = source.file.elements() / source.steps;
  return source;
}

absl::StatusOr<std::vector<PushStep>> PlanSteps(absl::Span<const PushSource> sources,
                                                std::optional<uint64_t> shuffle_seed) {
  uint64_t total = 0;
  uint64_t most = 0;
  for (const PushSource& source : sources) {
    most = std::max(most, source.steps);
    total += source.steps;
    if (source.steps > kMaxSteps || total > kMaxSteps) {
      return absl::ResourceExhaustedError(absl::StrCat(source.file.path(), ": its first axis has ", source.steps,
                                                       " steps; one push takes ", kMaxSteps,
                                                       ": reshape the array, or push the files one by one"));
    }
  }
  std::vector<PushStep> steps;
  steps.reserve(total);
  for (uint64_t index = 0; index < most; ++index) {
    for (size_t source = 0; source < sources.size(); ++source) {
      if (index < sources[source].steps) steps.push_back({source, index});
    }
  }
  if (shuffle_seed.has_value()) std::shuffle(steps.begin(), steps.end(), std::mt19937_64(*shuffle_seed));
  return steps;
}

ElementRun PartOfStep(const PushSource& source, int ranks, int rank) {
  const uint64_t rows = source.step_shape.empty() ? 1 : source.step_shape.front();
  const uint64_t n = static_cast<uint64_t>(ranks), i = static_cast<uint64_t>(rank);
  const uint64_t row_elements = source.step_elements / rows;
  const uint64_t begin = i * (rows / n) + std::min(i, rows % n);
  const uint64_t end = begin + rows / n + (i < rows % n ? 1 : 0);
  return {begin * row_elements, end * row_elements};
}

}  // namespace calib::cli
