#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "server/engine/engine.h"
#include "server/engine/observe_stream.h"
#include "server/engine/validate.h"

// Raw tensors.
namespace calib::server {
namespace {

constexpr int kNoAxis = -1;

// `axis` counted from the front; kNoAxis when a tensor of this rank has no such axis.
int NormalizedAxis(int axis, int rank) {
  if (axis < -rank || axis >= rank) return kNoAxis;
  return axis < 0 ? axis + rank : axis;
}

}  // namespace

absl::Status ObserveStream::HandleTensor(const v1::Update& update) {
  const v1::TensorChunk& chunk = update.tensor();
  const absl::StatusOr<LayerBinding*> binding = FindBinding(chunk.layer());
  if (!binding.ok()) return binding.status();
  if (absl::Status status = CheckStepless(**binding); !status.ok()) return status;
  const absl::StatusOr<TensorView> tensor = DecodeTensorChunk(chunk);
  if (!tensor.ok()) return tensor.status();
  if (absl::Status status = CheckAxis(chunk, **binding); !status.ok()) return status;
  if ((*binding)->observer->kind == ObserverKind::kPassive) return PassiveTakesNoData(**binding);
  if (DependsOnOrder((*binding)->observer->kind)) return HandleStep(update, *binding, *tensor);

  LayerStatistics observed(*(*binding)->observer);
  {
    ObserverPool::Lease observer = engine_->observer_pool().Acquire();
    if (absl::Status status = observer->Observe(*tensor, &observed); !status.ok()) {
      return MakeError(ReasonOfStatistics(status, v1::ERROR_REASON_TENSOR_INVALID),
                       absl::StrCat("layer ", Quoted((*binding)->name), ": ", status.message()),
                       {{"layer", (*binding)->name}});
    }
  }
  update_.layers.clear();
  update_.layers.push_back({.binding = *binding, .observed = &observed});
  update_.bytes = chunk.data().size();
  absl::Status status = Apply(update);
  if (status.ok()) engine_->counters().raw_bytes += update_.bytes;
  return status;
}

absl::Status ObserveStream::HandleStep(const v1::Update& update, LayerBinding* binding, const TensorView& tensor) {
  const auto annotate = [&](v1::ErrorReason reason, absl::string_view message) {
    return MakeError(reason, absl::StrCat("layer ", Quoted(binding->name), ": ", message), {{"layer", binding->name}});
  };
  uint64_t elements = 1;
  for (const uint64_t length : tensor.shape) elements *= length;  // an overflow is refused below
  if (tensor.offset != 0 || tensor.data.size() != elements * ElementSize(tensor.type)) {
    return annotate(v1::ERROR_REASON_TENSOR_INVALID,
                    absl::StrCat("its observer (", ObserverKindName(binding->observer->kind),
                                 ") depends on whole steps, and this chunk is a part of a tensor; send tensors of up "
                                 "to ",
                                 kMaxTensorChunkBytes, " bytes in one chunk, reduce larger ones in the client"));
  }
  ObserverConfig ranges_alone = *binding->observer;
  ranges_alone.kind = ObserverKind::kMinMax;
  LayerStatistics ranges(ranges_alone);
  {
    ObserverPool::Lease observer = engine_->observer_pool().Acquire();
    if (absl::Status status = observer->Observe(tensor, &ranges); !status.ok()) {
      return annotate(ReasonOfStatistics(status, v1::ERROR_REASON_TENSOR_INVALID), status.message());
    }
  }
  Step step;
  for (const ChannelStatistics& channel : ranges.channels()) step.ranges.push_back(channel.range);
  update_.layers.clear();
  update_.layers.push_back({.binding = binding, .step = &step});
  update_.bytes = tensor.data.size();
  // Counting is done without the session's lock. When another worker's step came in between, its state asks for another
  // grid; each time that happens some worker got on.
  for (;;) {
    if (binding->observer->kind == ObserverKind::kReferenceHistogram) {
      const absl::StatusOr<ReferenceGrid> grid = session_->NextGrid(binding, step.ranges.front());
      if (GetReason(grid.status()) == v1::ERROR_REASON_SESSION_DELETED) return grid.status();
      if (!grid.ok()) return annotate(GetReason(ErrorOfStep(grid.status())), grid.status().message());
      step.grid = *grid;
      const absl::Status counted = CountOnGrid(binding->observer->reference.rule, *grid, tensor, &step.counts);
      if (!counted.ok()) return annotate(v1::ERROR_REASON_TENSOR_INVALID, counted.message());
    }
    absl::Status status = Apply(update);
    if (status.ok()) engine_->counters().raw_bytes += update_.bytes;
    if (GetReason(status) != v1::ERROR_REASON_REFERENCE_GRID_MISMATCH) return status;
  }
}

absl::Status ObserveStream::PassiveTakesNoData(const LayerBinding& binding) {
  return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH,
                   absl::StrCat("layer ", Quoted(binding.name),
                                ": its observer is passive and takes no data; set its parameters with SetQParams"),
                   {{"layer", binding.name}});
}

absl::Status ObserveStream::CheckAxis(const v1::TensorChunk& chunk, const LayerBinding& binding) const {
  const Limits& limits = engine_->options().limits;
  const int rank = chunk.shape_size();
  const std::optional<int>& axis = binding.observer->channel_axis;
  const int channel_axis = axis.has_value() ? NormalizedAxis(*axis, rank) : kNoAxis;
  if (chunk.has_channel_axis()) {
    const int given = NormalizedAxis(chunk.channel_axis(), rank);
    if (given == kNoAxis || given != channel_axis) {
      return MakeError(v1::ERROR_REASON_TENSOR_INVALID,
                       absl::StrCat("layer ", Quoted(binding.name), ": channel_axis is ", chunk.channel_axis(),
                                    " of a tensor of rank ", rank, "; its observer ",
                                    axis.has_value() ? absl::StrCat("has axis ", *axis) : "observes per tensor",
                                    "; leave channel_axis out"),
                       {{"layer", binding.name}, {"field", "channel_axis"}});
    }
  }
  if (channel_axis != kNoAxis && chunk.shape(channel_axis) > limits.max_channels) {
    return LimitExceeded(absl::StrCat("layer ", Quoted(binding.name), " has ", chunk.shape(channel_axis), " channels"),
                         "--max-channels", limits.max_channels, binding.name);
  }
  return absl::OkStatus();
}

}  // namespace calib::server
