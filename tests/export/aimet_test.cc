// AIMET's encodings: three versions of the same numbers.

#include "nlohmann/json.hpp"
#include "tests/export/exporter_fixture.h"

namespace calib::server {
namespace {

using Json = nlohmann::json;

constexpr v1::ExportFormat kVersions[] = {v1::EXPORT_FORMAT_AIMET_0_6_1, v1::EXPORT_FORMAT_AIMET_1_0_0,
                                          v1::EXPORT_FORMAT_AIMET_2_0_0};

std::vector<ExportTensor> Tensors() {
  const auto exporter = NewExporter(kVersions[0]);
  return {Activation(*exporter, "input", {-2.5, 2.1}), Weight(*exporter, "conv1.weight", {{-1.27, 1}, {-0.5, 2.54}})};
}

TEST(AimetTest, Version061) {
  EXPECT_EQ(Json::parse(FileOf(v1::EXPORT_FORMAT_AIMET_0_6_1, Tensors())), Json::parse(R"({
      "version": "0.6.1",
      "activation_encodings": {"input": [{"bitwidth": 8, "dtype": "int", "is_symmetric": "False",
          "max": 2.09254894, "min": -2.507450885, "offset": -139, "scale": 0.018039215}]},
      "param_encodings": {"conv1.weight": [
          {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "max": 1.27, "min": -1.28, "offset": -128,
           "scale": 0.01},
          {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "max": 2.54, "min": -2.56, "offset": -128,
           "scale": 0.02}]},
      "quantizer_args": {"activation_bitwidth": 8, "dtype": "int", "is_symmetric": "True", "param_bitwidth": 8,
          "per_channel_quantization": "True", "quant_scheme": "post_training_tf"}})"));
}

TEST(AimetTest, Version100) {
  EXPECT_EQ(Json::parse(FileOf(v1::EXPORT_FORMAT_AIMET_1_0_0, Tensors())), Json::parse(R"({
      "version": "1.0.0",
      "activation_encodings": [{"name": "input", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": false,
          "scale": [0.018039215], "offset": [-139]}],
      "param_encodings": [{"name": "conv1.weight", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 8, "is_sym": true,
          "scale": [0.01, 0.02], "offset": [-128, -128]}],
      "quantizer_args": {"activation_bitwidth": 8, "dtype": "int", "is_symmetric": true, "param_bitwidth": 8,
          "per_channel_quantization": true, "quant_scheme": "post_training_tf"},
      "excluded_layers": []})"));
}

TEST(AimetTest, Version200) {
  EXPECT_EQ(Json::parse(FileOf(v1::EXPORT_FORMAT_AIMET_2_0_0, Tensors())), Json::parse(R"({
      "version": "2.0.0",
      "encodings": [
          {"name": "conv1.weight", "output_dtype": "int8", "y_scale": [0.01, 0.02], "axis": 0},
          {"name": "input", "output_dtype": "uint8", "y_scale": 0.018039215, "y_zero_point": 139}]})"));
}

TEST(AimetTest, VersionsSayTheSame) {
  const auto exporter = NewExporter(kVersions[0]);
  const ExportTensor tensor =
      WithSpec(Activation(*exporter, "a", {-3, 5}),
               {.type = {.bits = 4}, .scheme = QuantScheme::kAffine, .preset = QuantPreset::kAimet});
  const Json old = Json::parse(FileOf(kVersions[1], {tensor})).at("activation_encodings").at(0);
  const Json current = Json::parse(FileOf(kVersions[2], {tensor})).at("encodings").at(0);
  EXPECT_EQ(current.at("output_dtype"), "int4");
  EXPECT_EQ(old.at("bw"), 4);
  EXPECT_EQ(old.at("scale").at(0), current.at("y_scale"));
  EXPECT_EQ(current.at("y_zero_point").get<int>(), -old.at("offset").at(0).get<int>() - 8);
}

TEST(AimetTest, Float8IsOfTheLastVersion) {
  const auto exporter = NewExporter(kVersions[2]);
  const QuantSpec fp8 = {.type = {.kind = CodeKind::kFloat8E4M3}};
  const ExportTensor tensor = WithSpec(Activation(*exporter, "a", {-4.48, 1}), fp8);
  EXPECT_EQ(Json::parse(FileOf(kVersions[2], {tensor})).at("encodings").at(0),
            Json::parse(R"({"name": "a", "output_dtype": "float8e4m3fn", "y_scale": 0.01})"));
  for (const v1::ExportFormat version : {kVersions[0], kVersions[1]}) {
    ExpectRefused(NewExporter(version).get(), tensor, "its type is fp8_e4m3");
  }
}

TEST(AimetTest, Refusals) {
  for (const v1::ExportFormat version : kVersions) {
    const auto exporter = NewExporter(version);
    const ExportTensor tensor = Activation(*exporter, "a", {-1, 2});
    ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.bits = 1}}), "int1");
    ExpectRefused(exporter.get(), WithSpec(tensor, {.narrow_range = true}), "-127 to 127");
    ExpectRefused(exporter.get(), WithSpec(tensor, {.reduce_range = true}), "-64 to 63");
    ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
    ExportTensor outside = tensor;
    outside.qparams.set_zero_point(0, 256);
    ExpectRefused(exporter.get(), outside, "zero point 256 is none of the codes 0 to 255");
  }
  ExportTensor weight = Weight(*NewExporter(kVersions[2]), "W", {{-1, 1}, {-2, 2}});
  weight.qparams.clear_channel_axis();
  ExpectRefused(NewExporter(kVersions[2]).get(), weight, "axis of its channels");
}

TEST(AimetTest, OldVersionsHaveChannelsOfWeightsAlone) {
  for (const v1::ExportFormat version : {kVersions[0], kVersions[1]}) {
    const auto exporter = NewExporter(version);
    ExportTensor weight = Weight(*exporter, "W", {{-1, 1}, {-2, 2}});
    for (const int axis : {-1, -2, 2, 3}) {
      weight.qparams.set_channel_axis(axis);
      ExpectRefused(exporter.get(), weight, "a scale a channel along axis " + std::to_string(axis));
    }
    weight.qparams.clear_channel_axis();
    ExpectRefused(exporter.get(), weight, "axis of its channels is not known");
    ExportTensor activation = weight;
    activation.is_weight = false;
    for (const int axis : {0, 1, -1}) {
      activation.qparams.set_channel_axis(axis);
      ExpectRefused(exporter.get(), activation, "those of weights alone");
    }
    weight.qparams.set_channel_axis(1);
    EXPECT_TRUE(exporter->Add(weight).ok());
  }
  // It says the axis.
  const auto exporter = NewExporter(kVersions[2]);
  ExportTensor activation = Weight(*exporter, "a", {{-1, 1}, {-2, 2}});
  activation.is_weight = false;
  activation.qparams.set_channel_axis(-1);
  EXPECT_EQ(Json::parse(FileOf(kVersions[2], {activation})).at("encodings").at(0).at("axis"), -1);
}

}  // namespace
}  // namespace calib::server
