#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/number_text.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

constexpr char kColumns[] =
    "layer,name,weight,channel,channel_axis,method,dtype,symmetric,scale,zero_point,qmin,qmax,min,max,clip_min,clip_"
    "max,"
    "count,nan,inf,workers,mse,sqnr_db,clipped\n";

// A text field as RFC 4180 has it.
std::string Field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

// Empty when the number is absent, infinite or NaN.
std::string Optional(bool has, double value) { return has && std::isfinite(value) ? NumberText(value) : ""; }

std::string Flag(bool value) { return value ? "true" : "false"; }

std::string Row(const ExportTensor& tensor, int channel) {
  const v1::LayerQParams& qparams = tensor.qparams;
  const std::vector<std::string> fields = {Field(qparams.layer()),
                                           Field(tensor.name),
                                           Flag(tensor.is_weight),
                                           absl::StrCat(channel),
                                           qparams.has_channel_axis() ? absl::StrCat(qparams.channel_axis()) : "",
                                           MethodNameOf(qparams),
                                           TypeOf(qparams).Name(),
                                           Flag(IsSymmetric(qparams)),
                                           NumberText(qparams.scale(channel)),
                                           absl::StrCat(qparams.zero_point(channel)),
                                           absl::StrCat(qparams.qmin()),
                                           absl::StrCat(qparams.qmax()),
                                           NumberText(qparams.min()),
                                           NumberText(qparams.max()),
                                           NumberText(qparams.clip_min(channel)),
                                           NumberText(qparams.clip_max(channel)),
                                           absl::StrCat(qparams.count()),
                                           absl::StrCat(qparams.nan()),
                                           absl::StrCat(qparams.inf()),
                                           absl::StrCat(qparams.workers()),
                                           Optional(qparams.has_mse(), qparams.mse()),
                                           Optional(qparams.has_sqnr_db(), qparams.sqnr_db()),
                                           Optional(qparams.has_clipped(), qparams.clipped())};
  return absl::StrCat(absl::StrJoin(fields, ","), "\n");
}

// The most bytes of a tensor's rows: the first shows what they share.
uint64_t RowsBytes(const ExportTensor& tensor) {
  constexpr uint64_t kChannelFields = kIntegerText + kFloatText + kZeroPointText + 2 * kDoubleText;
  const uint64_t channels = ChannelsOf(tensor);
  return channels == 0 ? 0 : channels * (Row(tensor, 0).size() + kChannelFields);
}

class CsvExporter final : public Exporter {
 public:
  ExportConventions conventions() const override { return {}; }

  uint64_t TensorMemory(const ExportTensor& tensor) const override { return kTensorBytes + RowsBytes(tensor); }

 private:
  absl::Status Check(const ExportTensor&) override { return absl::OkStatus(); }
  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    uint64_t bytes = sizeof(kColumns);
    for (const ExportTensor& tensor : tensors) bytes += RowsBytes(tensor);
    std::string text = kColumns;
    text.reserve(bytes);  // growing would take thrice the text
    for (const ExportTensor& tensor : tensors) {
      for (int channel = 0; channel < tensor.qparams.scale_size(); ++channel) text += Row(tensor, channel);
    }
    return ExportedFile{.bytes = std::move(text)};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewCsvExporter() { return std::make_unique<CsvExporter>(); }

}  // namespace calib::server
