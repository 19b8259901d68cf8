// TensorRT's cache, and ONNX Runtime's table for it.

#include <limits>
#include <map>

#include "flatbuffers/flatbuffers.h"
#include "tests/export/exporter_fixture.h"

namespace calib::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::StartsWith;

constexpr v1::ExportFormat kCache = v1::EXPORT_FORMAT_TENSORRT_CACHE;
constexpr v1::ExportFormat kTable = v1::EXPORT_FORMAT_ONNXRUNTIME_TABLE;

v1::ExportOptions CacheOf(const std::string& version, const std::string& algorithm = "") {
  v1::ExportOptions options;
  options.mutable_tensorrt_cache()->set_version(version);
  options.mutable_tensorrt_cache()->set_algorithm(algorithm);
  return options;
}

TEST(TensorrtCacheTest, Bytes) {
  EXPECT_EQ(SampleFile(kCache, CacheOf("8.6.1")),
            "TRT-8601-EntropyCalibration2\n"
            "conv1_out: 3d4ccccd\n"
            "fc_out: 3dcccccd\n"
            "input: 3ca14285\n");
  const auto exporter = NewExporter(kCache);
  EXPECT_EQ(FileOf(kCache, {Activation(*exporter, "unit", {-1, 0.5})}, CacheOf("10.14.1", "MinMaxCalibration")),
            "TRT-101401-MinMaxCalibration\nunit: 3c010204\n");
  // Eight digits, however small the scale.
  ExportTensor small = Activation(*exporter, "small", {-1, 1});
  small.qparams.set_scale(0, std::numeric_limits<float>::denorm_min());
  EXPECT_THAT(FileOf(kCache, {small}), HasSubstr("small: 00000001\n"));
}

TEST(TensorrtCacheTest, Versions) {
  const std::map<std::string, std::string> headers = {{"", "TRT-100300-"},
                                                      {"7.2.3", "TRT-7203-"},
                                                      {"9.3.0", "TRT-9300-"},
                                                      {"10.0.1", "TRT-100001-"},
                                                      {"10.13.3", "TRT-101303-"}};
  for (const auto& [version, header] : headers) {
    EXPECT_THAT(SampleFile(kCache, CacheOf(version)), StartsWith(header));
  }
  for (const char* version : {"8.6", "8.6.1.6", "8.10.1", "8.6.x", "-8.6.1", "0.0.0", "10.3.100", "8..1", "11.0.0"}) {
    const absl::Status status = NewExporter(kCache)->Begin(CacheOf(version), "");
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD) << version;
    EXPECT_THAT(std::string(status.message()), StartsWith("tensorrt_cache.version: "));
  }
  EXPECT_THAT(std::string(NewExporter(kCache)->Begin(CacheOf("11.0.0"), "").message()), HasSubstr("onnx-qdq"));
  const absl::Status status = NewExporter(kCache)->Begin(CacheOf("", "Entropy"), "");
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_THAT(std::string(status.message()), HasSubstr("LegacyCalibration"));
}

TEST(TensorrtCacheTest, Refusals) {
  const auto exporter = NewExporter(kCache);
  ASSERT_TRUE(exporter->Begin({}, "").ok());
  const ExportTensor tensor = Activation(*exporter, "a", {-1, 2});
  ExpectRefused(exporter.get(), WithName(tensor, ""), "is empty");
  ExpectRefused(exporter.get(), WithName(tensor, "x/y:0"), "\"x/y:0\" has a colon");
  ExpectRefused(exporter.get(), WithName(tensor, "x\ny"), "control character");
  ExpectRefused(exporter.get(), Weight(*exporter, "a.weight", {{-1, 1}, {-2, 2}}), "2 scales, one a channel");
  ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.is_signed = false}}), "uint8 from 0 to 255");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.bits = 4}}), "int4 from -8 to 7");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.kind = CodeKind::kFloat8E4M3}}), "fp8_e4m3");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.reduce_range = true}), "int8 from -64 to 63");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.scheme = QuantScheme::kAffine}), "zero point is -43");
  EXPECT_TRUE(exporter->Add(WithSpec(tensor, {})).ok()) << "another divisor is another scale";
}

// The table read back by the schema's words.
std::vector<std::pair<std::string, std::string>> ReadTable(const std::string& bytes) {
  const auto* const data = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto* const root = flatbuffers::GetRoot<flatbuffers::Table>(data);
  flatbuffers::Verifier verifier(data, bytes.size());
  using Rows = flatbuffers::Vector<flatbuffers::Offset<flatbuffers::Table>>;
  EXPECT_TRUE(root->VerifyTableStart(verifier) && root->VerifyOffsetRequired(verifier, 4));
  const auto* const rows = root->GetPointer<const Rows*>(4);
  EXPECT_TRUE(verifier.VerifyVector(rows));
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const flatbuffers::Table* const row : *rows) {
    EXPECT_TRUE(row->VerifyTableStart(verifier));
    const auto* const key = row->GetPointer<const flatbuffers::String*>(4);
    const auto* const value = row->GetPointer<const flatbuffers::String*>(6);
    EXPECT_TRUE(verifier.VerifyString(key) && verifier.VerifyString(value));
    pairs.emplace_back(key->str(), value->str());
  }
  return pairs;
}

TEST(OnnxruntimeTableTest, AmplitudesByName) {
  EXPECT_THAT(ReadTable(SampleFile(kTable)),
              ElementsAre(Pair("conv1_out", "6.35"), Pair("fc_out", "12.7"), Pair("input", "2.5")));
}

TEST(OnnxruntimeTableTest, TheReaderGetsTheScaleBack) {
  const auto exporter = NewExporter(kTable);
  // PyTorch's divisor is 127.5; the reader's is 127.
  const ExportTensor tensor = WithSpec(Activation(*exporter, "a", {-3.7, 2}), {});
  const std::string file = FileOf(kTable, {tensor});
  EXPECT_FLOAT_EQ(std::stof(ReadTable(file)[0].second) / 127, tensor.qparams.scale(0));
}

TEST(OnnxruntimeTableTest, NamesAndRefusals) {
  const auto exporter = NewExporter(kTable);
  const ExportTensor tensor = Activation(*exporter, "a", {-1, 2});
  EXPECT_THAT(ReadTable(FileOf(kTable, {WithName(tensor, "x/y:0 \n\xc3\xa9")})),
              ElementsAre(Pair("x/y:0 \n\xc3\xa9", "2")));
  ExpectRefused(exporter.get(), WithName(tensor, std::string("a\0b", 3)), "NUL");
  ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.is_signed = false}}), "uint8");
  ExportTensor extreme = tensor;
  extreme.qparams.set_scale(0, std::numeric_limits<float>::max());
  ExpectRefused(exporter.get(), extreme, "no normal float32");
  extreme.qparams.set_scale(0, std::numeric_limits<float>::denorm_min());
  ExpectRefused(exporter.get(), extreme, "no normal float32");
}

}  // namespace
}  // namespace calib::server
