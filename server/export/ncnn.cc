#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/export/amplitude.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/ncnn_table.h"
#include "server/export/number_text.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

std::string Numbers(const v1::LayerQParams& qparams) {
  std::string text;
  for (int i = 0; i < qparams.scale_size(); ++i) {
    absl::StrAppend(&text, i > 0 ? " " : "", NumberText(MultiplierOf(qparams, i)));
  }
  return text;
}

class NcnnExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    const QuantSpec int8 = {.preset = QuantPreset::kTensorrt};
    return {.input = ExportConventions::Input::kOptional,
            .activations = int8,
            .weights = int8,
            .weights_per_channel = true};
  }

  std::string NameOf(absl::string_view layer, bool is_weight) const override {
    if (!is_weight) return std::string(layer);
    return absl::StrCat(absl::StripSuffix(layer, ".weight"), NcnnTable::kWeightMark, "0");
  }

  uint64_t InputMemory(absl::string_view input) const override { return NcnnTable::MemoryOf(input); }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // A row: its numbers, which grow, and the line; or lines, lines joined and the file. Two tables have names as keys.
    constexpr uint64_t kChannel = (kTextGrowth + 1) * (1 + kFloatText);
    return kTensorBytes + 10 * tensor.name.size() + kChannel * ChannelsOf(tensor);
  }

  absl::Status Begin(const v1::ExportOptions&, std::string input) override {
    absl::StatusOr<NcnnTable> table = NcnnTable::Parse(input);
    if (!table.ok()) return table.status();
    table_ = *std::move(table);
    return absl::OkStatus();
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    if (absl::Status status = CheckName(tensor); !status.ok()) return status;
    if (absl::Status status = tensor.is_weight ? CheckWeight(tensor) : CheckSymmetricInt8(tensor); !status.ok()) {
      return status;
    }
    if (absl::Status status = CheckHasRange(tensor); !status.ok()) return status;
    for (int i = 0; i < tensor.qparams.scale_size(); ++i) {
      if (std::isfinite(MultiplierOf(tensor.qparams, i))) continue;
      return NotExportable(tensor, "its scale is so small that the inverse passes float32; leave it out");
    }
    if (!tensor.is_weight && !table_.HasWeights(tensor.name) && !added_weights_.HasWeights(tensor.name)) {
      return NotExportable(tensor, absl::StrCat("there is no row \"", tensor.name,
                                                "_param_0\" of its weights, without which ncnn refuses it; observe the "
                                                "weights too, or send the table that ncnn2table made as input"));
    }
    // Weights come first, so that activations find theirs.
    if (tensor.is_weight) added_weights_.Put(tensor.name, "");
    return absl::OkStatus();
  }

  static absl::Status CheckName(const ExportTensor& tensor) {
    if (absl::Status status = CheckNameIsOneLine(tensor); !status.ok()) return status;
    const auto refuse = [&](absl::string_view problem) {
      return NotExportable(tensor, absl::StrCat("the name \"", tensor.name, "\" ", problem, "; rename it"));
    };
    if (absl::StrContains(tensor.name, ' ')) return refuse("has a space, at which ncnn ends it");
    if (tensor.name.front() == '#') return refuse("begins with #, which marks layers that are left out");
    if (tensor.name.size() > NcnnTable::kMostKeyBytes) return refuse("has more than 255 bytes, which ncnn can't read");
    const bool marked = absl::StrContains(tensor.name, NcnnTable::kWeightMark);
    if (marked && !tensor.is_weight) return refuse("has _param_ in it, so that ncnn takes it for a weight's");
    if (tensor.is_weight && !NcnnTable::EndsAsWeights(tensor.name)) {
      return refuse("is a weight's, and has no _param_0 (or another number, where a layer has several) at its end");
    }
    return absl::OkStatus();
  }

  static absl::Status CheckWeight(const ExportTensor& tensor) {
    const v1::LayerQParams& qparams = tensor.qparams;
    if (TypeOf(qparams).kind != CodeKind::kInteger || !TypeOf(qparams).is_signed || qparams.qmin() < -128 ||
        qparams.qmax() > 127) {
      return NotExportable(
          tensor, absl::StrCat("its codes are ", TypeOf(qparams).Name(), " from ", qparams.qmin(), " to ",
                               qparams.qmax(), ", and ncnn's are int8; ask for symmetric int8, or int6 for Winograd"));
    }
    return CheckZeroPointZero(tensor);
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    // In ncnn2table's order.
    for (const bool weights : {true, false}) {
      for (const ExportTensor& tensor : tensors) {
        if (tensor.is_weight == weights) table_.Put(tensor.name, Numbers(tensor.qparams));
      }
    }
    return ExportedFile{.bytes = table_.ToText()};
  }

  NcnnTable table_;
  NcnnTable added_weights_;  // keys of the session's
};

}  // namespace

std::unique_ptr<Exporter> NewNcnnExporter() { return std::make_unique<NcnnExporter>(); }

}  // namespace calib::server
