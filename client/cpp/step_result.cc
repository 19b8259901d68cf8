#include <cstddef>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "client/cpp/step_encoder.h"

// The messages' columns as callers read them.
namespace calib::client {
namespace {

// Takes the entries of one layer after the other off a column.
template <typename Entry>
class Column {
 public:
  explicit Column(const google::protobuf::RepeatedField<Entry>& column) : rest_(column.data(), column.size()) {}

  absl::Span<const Entry> Take(size_t entries) {
    const absl::Span<const Entry> taken = rest_.subspan(0, entries);
    rest_.remove_prefix(taken.size());
    return taken;
  }

 private:
  absl::Span<const Entry> rest_;
};

bool HasLength(size_t length, int entries) { return length == static_cast<size_t>(entries); }

bool Fits(const v1::StepResult& message, const StepLayout& layout) {
  size_t rows = 0;
  for (size_t i = 0; i < layout.statistics_parts; ++i) rows += layout.parts[i].rows;
  const bool one_each = message.params().empty();
  if (!one_each && !HasLength(layout.parts.size(), message.params_size())) return false;
  size_t params = 0;
  size_t learned = 0;
  for (size_t i = 0; i < layout.parts.size(); ++i) {
    const size_t entries = one_each ? 1 : message.params(static_cast<int>(i));
    params += entries;
    if (i >= layout.statistics_parts) learned += entries;
  }
  return HasLength(rows, message.step_min_size()) && HasLength(rows, message.step_max_size()) &&
         HasLength(rows, message.min_size()) && HasLength(rows, message.max_size()) &&
         HasLength(params, message.scale_size()) && HasLength(params, message.zero_point_size()) &&
         HasLength(learned, message.learned_zero_point_size());
}

}  // namespace

absl::StatusOr<StepResult> DecodeStepResult(const std::shared_ptr<const v1::StepResult>& message,
                                            const StepLayout& layout) {
  if (!Fits(*message, layout)) {
    return absl::InternalError(
        absl::StrCat("the result of step ", message->step(), " does not fit what this rank contributed to it"));
  }
  StepResult result;
  result.step = message->step();
  result.world_epoch = message->world_epoch();
  result.world_size = message->world_size();
  result.ranks = message->ranks();
  result.counted = message->counted();
  result.layers.resize(layout.layers);
  result.memory = message;
  Column step_min(message->step_min());
  Column step_max(message->step_max());
  Column min(message->min());
  Column max(message->max());
  Column scale(message->scale());
  Column zero_point(message->zero_point());
  Column learned_zero_point(message->learned_zero_point());
  for (size_t i = 0; i < layout.parts.size(); ++i) {
    StepLayerResult& layer = result.layers[layout.parts[i].position];
    const size_t params = message->params().empty() ? 1 : message->params(static_cast<int>(i));
    if (i < layout.statistics_parts) {
      const size_t rows = layout.parts[i].rows;
      layer.step_min = step_min.Take(rows);
      layer.step_max = step_max.Take(rows);
      layer.min = min.Take(rows);
      layer.max = max.Take(rows);
    } else {
      layer.learned_zero_point = learned_zero_point.Take(params);
    }
    layer.scale = scale.Take(params);
    layer.zero_point = zero_point.Take(params);
  }
  return result;
}

}  // namespace calib::client
