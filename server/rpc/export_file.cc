#include "server/rpc/export_file.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/error.h"
#include "proto/codec/export_format.h"
#include "quant/observer_config.h"
#include "server/engine/validate.h"
#include "server/rpc/page.h"

namespace calib::server {
namespace {

// Bytes of the names in one part of a summary.
constexpr size_t kSummaryPartBytes = 1 << 20;

absl::Status ToStatus(const v1::LayerQParams& failed) {
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  v1::ErrorReason_Parse("ERROR_REASON_" + failed.error().info().reason(), &reason);
  return MakeError(reason, failed.error().message(), {{"layer", failed.layer()}});
}

v1::OmittedLayer Omitted(const std::string& layer, const absl::Status& why) {
  v1::OmittedLayer omitted;
  omitted.set_layer(layer);
  omitted.mutable_reason()->set_message(std::string(why.message()));
  if (std::optional<v1::ErrorInfo> info = GetErrorInfo(why))
    *omitted.mutable_reason()->mutable_info() = *std::move(info);
  return omitted;
}

// Adds names to a summary, in parts.
class SummaryWriter {
 public:
  SummaryWriter() : parts_(1) {}
  v1::ExportSummary& first() { return parts_.front(); }
  // The part that has room for an entry of this size.
  v1::ExportSummary& RoomFor(size_t bytes) {
    if (bytes_ > 0 && bytes_ + bytes > kSummaryPartBytes) {
      parts_.emplace_back();
      bytes_ = 0;
    }
    bytes_ += bytes + kEntryOverhead;
    return parts_.back();
  }
  std::vector<v1::ExportSummary> Take() { return std::move(parts_); }

 private:
  std::vector<v1::ExportSummary> parts_;
  size_t bytes_ = 0;  // of the last
};

// One call's work.
class ExportFileMaker {
 public:
  ExportFileMaker(ExportQuery* query, ExportMemory* memory, const std::function<bool()>& abandoned)
      : query_(*query), memory_(memory), abandoned_(abandoned) {}

  absl::Status AddLayer(const std::string& name, bool is_weight);
  absl::StatusOr<ExportFile> Finish();

 private:
  // Computes and adds it; the error otherwise.
  absl::Status TryAdd(const std::string& layer, bool is_weight);
  // NOT_EXPORTABLE: all were left out.
  absl::Status NothingExported() const;

  ExportQuery& query_;
  ExportMemory* const memory_;
  const std::function<bool()>& abandoned_;
  std::map<std::string, std::string> layers_;  // in the file, by their names there
  std::vector<v1::OmittedLayer> omitted_;
};

absl::Status ExportFileMaker::AddLayer(const std::string& name, bool is_weight) {
  const absl::Status added = TryAdd(name, is_weight);
  // What concerns the layer alone has it in its details; what does not ends the call.
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(added);
  const bool may_omit = query_.options.skip_unexportable() && info.has_value() && info->metadata().contains("layer");
  if (added.ok() || !may_omit) return added;
  omitted_.push_back(Omitted(name, added));
  return memory_->Add(omitted_.back().ByteSizeLong());
}

absl::Status ExportFileMaker::TryAdd(const std::string& layer, bool is_weight) {
  const absl::StatusOr<Session::LayerSnapshot> snapshot = query_.session->GetLayer(layer);
  if (!snapshot.ok()) return snapshot.status();
  absl::StatusOr<v1::LayerQParams> qparams =
      ComputeLayerQParams(*snapshot, QueryOf(query_, *snapshot, is_weight), abandoned_);
  if (!qparams.ok()) return qparams.status();
  ExportTensor tensor{.is_weight = is_weight, .qparams = *std::move(qparams)};
  if (tensor.qparams.has_error()) return ToStatus(tensor.qparams);
  const auto given = query_.names.find(layer);
  tensor.name = given != query_.names.end() ? given->second : query_.exporter->NameOf(layer, is_weight);
  const std::string name = tensor.name;
  if (const auto other = layers_.find(name); other != layers_.end()) {
    return InvalidField("name", absl::StrCat("layers ", Quoted(other->second), " and ", Quoted(layer),
                                             " would both be called ", Quoted(name), ": give one another name"));
  }
  const uint64_t bytes = tensor.qparams.SpaceUsedLong() + 2 * name.size() + query_.exporter->TensorMemory(tensor);
  if (absl::Status status = query_.exporter->Add(std::move(tensor)); !status.ok()) return status;
  // Before Finish takes them.
  if (absl::Status status = memory_->Add(bytes); !status.ok()) return status;
  layers_.emplace(name, layer);
  return absl::OkStatus();
}

absl::Status ExportFileMaker::NothingExported() const {
  return MakeError(
      v1::ERROR_REASON_NOT_EXPORTABLE,
      absl::StrCat("none of the ", omitted_.size(), " layers can be exported as ",
                   ExportFormatName(query_.options.format()), "; the first: ", omitted_.front().reason().message()));
}

absl::StatusOr<ExportFile> ExportFileMaker::Finish() {
  if (layers_.empty()) return NothingExported();
  absl::StatusOr<ExportedFile> file = query_.exporter->Finish(abandoned_);
  query_.exporter.reset();
  memory_->Drop();
  if (!file.ok()) return file.status();
  if (absl::Status status = memory_->Add(file->bytes.capacity()); !status.ok()) return status;
  for (const OmittedTensor& tensor : file->omitted) {
    const auto layer = layers_.find(tensor.name);
    omitted_.push_back(Omitted(layer->second, tensor.reason));
    layers_.erase(layer);
  }
  if (layers_.empty()) return NothingExported();

  SummaryWriter summary;
  summary.first().set_bytes(file->bytes.size());
  summary.first().set_incomplete(query_.session->IsIncomplete());
  std::vector<std::string> layers;
  for (auto& [name, layer] : layers_) layers.push_back(std::move(layer));
  std::sort(layers.begin(), layers.end());
  for (std::string& layer : layers) summary.RoomFor(layer.size()).add_layer(std::move(layer));
  std::sort(omitted_.begin(), omitted_.end(), [](const auto& a, const auto& b) { return a.layer() < b.layer(); });
  for (v1::OmittedLayer& omitted : omitted_) {
    *summary.RoomFor(omitted.ByteSizeLong()).add_omitted() = std::move(omitted);
  }
  for (std::string& name : file->from_input) summary.RoomFor(name.size()).add_from_input(std::move(name));
  return ExportFile{summary.Take(), std::move(file->bytes)};
}

}  // namespace

absl::StatusOr<ExportFile> MakeExportFile(ExportQuery* query, std::string input, ExportMemory* memory,
                                          const std::function<bool()>& abandoned) {
  if (absl::Status status = memory->Add(query->exporter->InputMemory(input)); !status.ok()) return status;
  if (absl::Status status = query->exporter->Begin(query->options, std::move(input)); !status.ok()) return status;
  const std::vector<std::string> layers = query->session->ListLayers(query->pattern, "", kAllLayers);
  ExportFileMaker maker(query, memory, abandoned);
  for (const bool weights : {true, false}) {
    for (const std::string& layer : layers) {
      if (GlobMatch(query->weight_pattern, layer) != weights) continue;
      if (abandoned()) return absl::CancelledError("the client is gone, or the server is shutting down");
      if (absl::Status status = maker.AddLayer(layer, weights); !status.ok()) return status;
    }
  }
  return maker.Finish();
}

}  // namespace calib::server
