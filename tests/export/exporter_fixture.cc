#include "tests/export/exporter_fixture.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "proto/codec/quantization_codec.h"

namespace calib::server {

using ::testing::HasSubstr;

v1::LayerQParams QParamsOf(const std::string& layer, const QuantSpec& spec, const std::vector<ClipRange>& ranges) {
  LayerQParams qparams;
  qparams.range.min = static_cast<float>(ranges[0].min);
  qparams.range.max = static_cast<float>(ranges[0].max);
  for (const ClipRange& range : ranges) {
    qparams.range.min = std::min(qparams.range.min, static_cast<float>(range.min));
    qparams.range.max = std::max(qparams.range.max, static_cast<float>(range.max));
  }
  qparams.range.count = 100;
  qparams.spec = ResolveAuto(spec, qparams.range.min);
  if (ranges.size() > 1) qparams.spec.granularity = QuantGranularity::kPerChannel;
  qparams.rules = ResolveSpec(qparams.spec).value();
  for (const ClipRange& range : ranges) {
    // Ranges come from float32 values.
    const ClipRange seen = {static_cast<float>(range.min), static_cast<float>(range.max)};
    qparams.clip.push_back(seen);
    qparams.params.push_back(ParamsForRange(qparams.rules, seen));
  }
  v1::LayerQParams message;
  message.set_layer(layer);
  *message.mutable_method() = EncodeMethodSpec({});
  *message.mutable_spec() = EncodeQuantSpec(qparams.spec);
  EncodeLayerQParams(qparams, &message);
  message.set_workers(2);
  if (ranges.size() > 1) message.set_channel_axis(0);
  return message;
}

ExportTensor Activation(const Exporter& exporter, const std::string& layer, const ClipRange& range) {
  return {exporter.NameOf(layer, false), false,
          QParamsOf(layer, exporter.conventions().activations.value_or(QuantSpec()), {range})};
}

ExportTensor Weight(const Exporter& exporter, const std::string& layer, const std::vector<ClipRange>& ranges) {
  return {exporter.NameOf(layer, true), true,
          QParamsOf(layer, exporter.conventions().weights.value_or(QuantSpec()), ranges)};
}

ExportTensor WithSpec(ExportTensor tensor, const QuantSpec& spec) {
  std::vector<ClipRange> ranges;
  for (int i = 0; i < tensor.qparams.scale_size(); ++i) {
    ranges.push_back({tensor.qparams.clip_min(i), tensor.qparams.clip_max(i)});
  }
  tensor.qparams = QParamsOf(tensor.qparams.layer(), spec, ranges);
  return tensor;
}

ExportTensor WithName(ExportTensor tensor, const std::string& name) {
  tensor.name = name;
  return tensor;
}

std::vector<ExportTensor> Sample(const Exporter& exporter) {
  return {Activation(exporter, "input", {-2.5, 2.1}), Activation(exporter, "conv1_out", {0, 6.35}),
          Activation(exporter, "fc_out", {-12.7, 9})};
}

std::string FileOf(v1::ExportFormat format, const std::vector<ExportTensor>& tensors, const v1::ExportOptions& options,
                   const std::string& input) {
  const auto make = [&](std::vector<ExportTensor> given) -> absl::StatusOr<std::string> {
    const std::unique_ptr<Exporter> exporter = NewExporter(format);
    if (absl::Status status = exporter->Begin(options, input); !status.ok()) return status;
    std::stable_partition(given.begin(), given.end(), [](const ExportTensor& tensor) { return tensor.is_weight; });
    for (const ExportTensor& tensor : given) {
      if (absl::Status status = exporter->Add(tensor); !status.ok()) return status;
    }
    absl::StatusOr<ExportedFile> file = exporter->Finish();
    if (!file.ok()) return file.status();
    return file->bytes;
  };
  const absl::StatusOr<std::string> file = make(tensors);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return "";
  EXPECT_EQ(make({tensors.rbegin(), tensors.rend()}).value(), *file) << "the order of tensors shows";
  return *file;
}

std::string SampleFile(v1::ExportFormat format, const v1::ExportOptions& options, const std::string& input) {
  return FileOf(format, Sample(*NewExporter(format)), options, input);
}

void ExpectRefused(Exporter* exporter, const ExportTensor& tensor, const std::string& says) {
  const absl::Status status = exporter->Add(tensor);
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_NOT_EXPORTABLE) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer \"" + tensor.qparams.layer() + "\": "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->metadata().at("layer"), tensor.qparams.layer());
}

}  // namespace calib::server
