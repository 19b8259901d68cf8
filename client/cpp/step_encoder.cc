#include "client/cpp/step_encoder.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/batch.h"
#include "proto/codec/error.h"
#include "quant/reference_grid.h"

namespace calib::client {
namespace {

using Infos = absl::Span<const std::shared_ptr<const StepLayerInfo>>;

absl::Status InvalidLayer(absl::string_view layer, absl::string_view what) {
  return MakeError(v1::ERROR_REASON_INVALID_FIELD, absl::StrCat("layer \"", layer, "\" ", what),
                   {{"layer", std::string(layer)}});
}

// A column that is left out as long as all its entries are `usual`.
template <typename Entry>
void AddEntries(absl::Span<const Entry> entries, size_t count, Entry usual, int before,
                google::protobuf::RepeatedField<Entry>* column) {
  const bool all_usual = std::all_of(entries.begin(), entries.end(), [usual](Entry entry) { return entry == usual; });
  if (column->empty()) {
    if (all_usual) return;
    column->Resize(before, usual);
  }
  column->Add(entries.begin(), entries.end());
  column->Resize(before + static_cast<int>(count), usual);
}

absl::Status AddGradients(const StepLayerInfo& info, const StepGradients& gradients, v1::GradientBatch* batch) {
  const size_t rows = gradients.scale.size();
  if (info.kind != ObserverKind::kLearned) {
    return MakeError(v1::ERROR_REASON_OBSERVER_MISMATCH,
                     absl::StrCat("layer \"", info.name, "\" has an observer of kind ", ObserverKindName(info.kind),
                                  ", which takes no gradients; give its tensor"),
                     {{"layer", info.name}});
  }
  if (rows == 0 || (!gradients.zero_point.empty() && gradients.zero_point.size() != rows)) {
    return InvalidLayer(info.name, absl::StrCat("has ", rows, " gradients of scales and ", gradients.zero_point.size(),
                                                " of zero points; give as many, at least one, or no zero points"));
  }
  const int layer = batch->layer_size();
  const int row = batch->scale_size();
  const auto channels = static_cast<uint32_t>(rows);
  batch->add_layer(info.number);
  AddEntries<uint32_t>({&channels, 1}, 1, 1, layer, batch->mutable_channels());
  batch->add_elements(gradients.elements);
  batch->mutable_scale()->Add(gradients.scale.begin(), gradients.scale.end());
  AddEntries<double>(gradients.zero_point, rows, 0, row, batch->mutable_zero_point());
  return absl::OkStatus();
}

}  // namespace

absl::Status StepEncoder::Order(absl::Span<const StepLayer> layers, Infos infos) {
  order_.clear();
  for (size_t i = 0; i < layers.size(); ++i) {
    if (!infos[i]->left_out) order_.push_back(i);
  }
  const auto lower = [&](size_t a, size_t b) { return infos[a]->number < infos[b]->number; };
  // Mostly they come in the order of their first use.
  if (!std::is_sorted(order_.begin(), order_.end(), lower)) std::sort(order_.begin(), order_.end(), lower);
  for (size_t i = 1; i < order_.size(); ++i) {
    if (!lower(order_[i - 1], order_[i])) return InvalidLayer(infos[order_[i]]->name, "is given twice in a step");
  }
  std::stable_partition(order_.begin(), order_.end(),
                        [&](size_t i) { return std::holds_alternative<TensorView>(layers[i].data); });
  return absl::OkStatus();
}

absl::StatusOr<EncodedStep> StepEncoder::Encode(absl::Span<const StepLayer> layers, Infos infos, double weight) {
  if (!(weight > 0))
    return InvalidField("weight", absl::StrCat("the gradients' weight is ", weight, "; it must be > 0"));
  if (absl::Status status = Order(layers, infos); !status.ok()) return status;
  values_ = 0;
  EncodedStep step;
  step.request = std::make_shared<v1::ObserveRequest>();
  v1::StepContribution* const contribution = step.request->mutable_step_contribution();
  step.layout.layers = layers.size();
  auto values = std::make_shared<std::vector<StepValues>>();
  size_t value_bytes = 0;
  for (const size_t i : order_) {
    const StepLayerInfo& info = *infos[i];
    step.layers_used = std::max<size_t>(step.layers_used, info.number + 1);
    if (const auto* const gradients = std::get_if<StepGradients>(&layers[i].data); gradients != nullptr) {
      v1::GradientBatch* const batch = contribution->mutable_gradients();
      if (absl::Status status = AddGradients(info, *gradients, batch); !status.ok()) return status;
      step.layout.parts.push_back({i, static_cast<uint32_t>(gradients->scale.size())});
      continue;
    }
    const auto& tensor = std::get<TensorView>(layers[i].data);
    LayerStatistics statistics(info.collected);
    if (absl::Status status = observer_.Observe(tensor, &statistics); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat("layer \"", info.name, "\": ", status.message()));
    }
    if (statistics.empty()) continue;
    writer_.Add(info.number, statistics, contribution->mutable_statistics());
    values_ += CountValues(statistics);
    step.layout.parts.push_back({i, static_cast<uint32_t>(statistics.channels().size())});
    ++step.layout.statistics_parts;
    if (info.kind == ObserverKind::kReferenceHistogram) {
      values->push_back({info.rule, tensor.type, {tensor.data.begin(), tensor.data.end()}});
      value_bytes += tensor.data.size();
    }
  }
  if (contribution->has_gradients()) contribution->mutable_gradients()->set_weight(weight);
  step.bytes = step.request->ByteSizeLong() + value_bytes;
  step.values = std::move(values);
  return step;
}

absl::StatusOr<std::shared_ptr<v1::ObserveRequest>> CountStep(const StepLog::CountJob& job) {
  auto request = std::make_shared<v1::ObserveRequest>();
  v1::StepCounts* const counts = request->mutable_step_counts();
  counts->set_world_epoch(job.grids->world_epoch());
  counts->set_step(job.grids->step());
  std::vector<uint64_t> bins;
  for (int i = 0; i < job.grids->grid_size(); ++i) {
    const v1::StepGrid& grid = job.grids->grid(i);
    const StepValues& values = (*job.values)[i];
    v1::StepCount* const count = counts->add_count();
    *count->mutable_grid() = grid;
    if (grid.bins() == 0) continue;  // no rank has a finite value
    TensorView tensor;
    tensor.type = values.type;
    const uint64_t elements = values.data.size() / ElementSize(values.type);
    tensor.shape = absl::MakeConstSpan(&elements, 1);
    tensor.data = values.data;
    const absl::Status status = CountOnGrid(values.rule, {grid.low(), grid.high(), grid.bins()}, tensor, &bins);
    if (!status.ok()) {
      return absl::InternalError(absl::StrCat("the server asked for counts of step ", job.grids->step(),
                                              " on a grid that is none: ", status.message()));
    }
    count->mutable_count()->Add(bins.begin(), bins.end());
  }
  return request;
}

}  // namespace calib::client
