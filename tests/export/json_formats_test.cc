// Formats of text that have no reader to be careful about: JSON, CSV, ONNX Runtime's overrides, MXNet.

#include "nlohmann/json.hpp"
#include "tests/export/exporter_fixture.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

TEST(JsonFormatTest, HasEverything) {
  v1::ExportOptions options;
  options.set_session("s");
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_JSON);
  ExportTensor tensor = WithName(Activation(*exporter, "a", {-1, 0.5}), "b");
  tensor.qparams.set_mse(0);
  tensor.qparams.set_sqnr_db(std::numeric_limits<double>::infinity());
  tensor.qparams.set_clipped(0.25);
  const ExportTensor weight = WithSpec(Weight(*exporter, "a.weight", {{-1, 0.5}, {-0.05, 0}}), {.type = {.bits = 4}});
  const std::string file = FileOf(v1::EXPORT_FORMAT_JSON, {tensor, weight}, options);
  EXPECT_THAT(file, StartsWith("{\n \"session\": \"s\",\n \"layers\": [\n  {\n   \"layer\": \"a.weight\",\n"));
  EXPECT_EQ(file.back(), '\n');
  const Json json = Json::parse(file);
  EXPECT_EQ(json.at("layers").at(1), Json::parse(R"({
      "layer": "a", "name": "b", "weight": false, "method": "minmax", "dtype": "int8", "symmetric": true,
      "scale": [0.007843138], "zero_point": [0], "qmin": -128, "qmax": 127, "channel_axis": null,
      "min": -1.0, "max": 0.5, "clip_min": [-1.0], "clip_max": [0.5], "count": 100, "nan": 0, "inf": 0, "workers": 2,
      "mse": 0.0, "sqnr_db": null, "clipped": 0.25})"));
  const Json& channels = json.at("layers").at(0);
  EXPECT_EQ(channels.at("channel_axis"), 0);
  EXPECT_EQ(channels.at("zero_point"), Json({0, 0}));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(channels.at("scale").at(i).get<float>(), weight.qparams.scale(i));
  EXPECT_EQ(channels.at("clip_min").at(1).get<double>(), weight.qparams.clip_min(1));
  EXPECT_EQ(channels.at("mse"), nullptr);
}

TEST(JsonFormatTest, HoldsZerosAndAnyName) {
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_JSON);
  const std::string file =
      FileOf(v1::EXPORT_FORMAT_JSON, {WithName(Activation(*exporter, "a", {0, 0}), "x:y \n\"\xc3\xa9\"")});
  EXPECT_EQ(Json::parse(file).at("layers").at(0).at("name"), "x:y \n\"\xc3\xa9\"");
  ExpectRefused(exporter.get(), WithName(Activation(*exporter, "a", {0, 1}), ""), "is empty");
}

TEST(CsvTest, ARowAChannel) {
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_CSV);
  ExportTensor tensor = WithName(Activation(*exporter, "a", {-1, 0.5}), "x,\"y\"");
  tensor.qparams.set_mse(0.125);
  EXPECT_EQ(FileOf(v1::EXPORT_FORMAT_CSV, {tensor, Weight(*exporter, "a.weight", {{-1, 0.5}, {-0.05, 0}})}),
            "layer,name,weight,channel,channel_axis,method,dtype,symmetric,scale,zero_point,qmin,qmax,min,max,clip_min,"
            "clip_max,count,nan,inf,workers,mse,sqnr_db,clipped\n"
            "a.weight,a.weight,true,0,0,minmax,int8,true,0.007843138,0,-128,127,-1,0.5,-1,0.5,100,0,0,2,,,\n"
            "a.weight,a.weight,true,1,0,minmax,int8,true,0.00039215686,0,-128,127,-1,0.5,-0.05000000074505806,0,100,0,"
            "0,2,,,\n"
            "a,\"x,\"\"y\"\"\",false,0,,minmax,int8,true,0.007843138,0,-128,127,-1,0.5,-1,0.5,100,0,0,2,0.125,,\n");
}

TEST(OnnxruntimeOverridesTest, Entries) {
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES);
  std::vector<ExportTensor> tensors = Sample(*exporter);
  tensors.push_back(Weight(*exporter, "W", {{-1.27, 1}, {-0.5, 2.54}}));
  const Json json = Json::parse(FileOf(v1::EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES, tensors));
  EXPECT_EQ(json, Json::parse(R"({
      "W": [{"scale": 0.01, "zero_point": 0, "axis": 0}, {"scale": 0.02, "zero_point": 0}],
      "conv1_out": [{"scale": 0.02490196, "zero_point": 0}],
      "fc_out": [{"scale": 0.08509804, "zero_point": 149}],
      "input": [{"scale": 0.018039215, "zero_point": 139}]})"));
}

TEST(OnnxruntimeOverridesTest, Refusals) {
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES);
  ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
  ExportTensor weight = Weight(*exporter, "W", {{-1, 1}, {-2, 2}});
  weight.qparams.clear_channel_axis();
  ExpectRefused(exporter.get(), weight, "axis of its channels");
}

TEST(MxnetTest, Ranges) {
  EXPECT_EQ(Json::parse(SampleFile(v1::EXPORT_FORMAT_MXNET)),
            Json::parse(R"({"conv1_out_output": [0.0, 6.35], "fc_out_output": [-12.7, 9.0],
                            "input_output": [-2.5, 2.1]})"));
  const auto exporter = NewExporter(v1::EXPORT_FORMAT_MXNET);
  ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
  ExpectRefused(exporter.get(), Weight(*exporter, "W", {{-1, 1}, {-2, 2}}), "2 scales");
}

TEST(ExporterTest, EveryFormatHasOne) {
  for (int format = 1; format < v1::ExportFormat_ARRAYSIZE; ++format) {
    EXPECT_NE(NewExporter(static_cast<v1::ExportFormat>(format)), nullptr) << format;
  }
  EXPECT_EQ(NewExporter(v1::EXPORT_FORMAT_UNSPECIFIED), nullptr);
  EXPECT_EQ(NewExporter(static_cast<v1::ExportFormat>(99)), nullptr);
}

}  // namespace
}  // namespace calib::server
