#include <cstring>
#include <limits>

#include "nlohmann/json.hpp"
#include "tests/export/exporter_fixture.h"

namespace calib::server {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::json;

constexpr v1::ExportFormat kSafetensors = v1::EXPORT_FORMAT_SAFETENSORS;

// A file by its rules: length of the header, header, data without holes.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& bytes) {
    uint64_t size = 0;
    std::memcpy(&size, bytes.data(), sizeof(size));
    EXPECT_EQ(size % 8, 0u);
    header_ = Json::parse(bytes.substr(8, size));
    data_ = bytes.substr(8 + size);
    size_t covered = 0;
    for (const auto& [name, tensor] : header_.items()) {
      if (name == "__metadata__") continue;
      const size_t width = tensor.at("dtype") == "F32" ? 4 : 1;
      size_t elements = 1;
      for (const size_t size : tensor.at("shape")) elements *= size;
      const size_t begin = tensor.at("data_offsets").at(0), end = tensor.at("data_offsets").at(1);
      EXPECT_EQ(end - begin, elements * width) << name;
      EXPECT_EQ(begin % width, 0u) << name;
      covered += end - begin;
    }
    EXPECT_EQ(covered, data_.size());
  }
  const Json& header() const { return header_; }
  Json config() const { return Json::parse(header_.at("__metadata__").at("quantization_config").get<std::string>()); }
  std::vector<float> Floats(const std::string& name) const { return Values<float>(name, "F32"); }
  std::vector<int> Codes(const std::string& name) const {
    const std::vector<int8_t> codes = Values<int8_t>(name, "I8");
    return {codes.begin(), codes.end()};
  }

 private:
  template <typename T>
  std::vector<T> Values(const std::string& name, const std::string& dtype) const {
    const Json& tensor = header_.at(name);
    EXPECT_EQ(tensor.at("dtype"), dtype);
    const size_t begin = tensor.at("data_offsets").at(0), end = tensor.at("data_offsets").at(1);
    std::vector<T> values((end - begin) / sizeof(T));
    std::memcpy(values.data(), data_.data() + begin, end - begin);
    return values;
  }

  Json header_;
  std::string data_;
};

TEST(SafetensorsTest, ScalesOfFp8AndTheKvCache) {
  const auto exporter = NewExporter(kSafetensors);
  const SafetensorsFile file(FileOf(
      kSafetensors, {Activation(*exporter, "m.q_proj", {-4.48, 1}), Activation(*exporter, "m.k_cache", {-0.448, 0.1}),
                     Activation(*exporter, "m.v_cache", {-1, 8.96}),
                     Weight(*exporter, "m.q_proj.weight", {{-448, 1}, {-224, 2}, {0, 0}})}));
  EXPECT_EQ(file.header().size(), 5u);
  EXPECT_EQ(file.header().at("__metadata__").at("format"), "pt");
  EXPECT_THAT(file.Floats("m.q_proj.input_scale"), ElementsAre(0.01f));
  EXPECT_THAT(file.Floats("m.k_scale"), ElementsAre(0.001f));
  EXPECT_THAT(file.Floats("m.v_scale"), ElementsAre(0.02f));
  EXPECT_THAT(file.Floats("m.q_proj.weight_scale"), ElementsAre(1.0f, 0.5f, 0x1p-23f));
  EXPECT_EQ(file.header().at("m.q_proj.weight_scale").at("shape"), Json({3, 1}));
  EXPECT_EQ(file.header().at("m.k_scale").at("shape"), Json::array({1}));
  const Json tensor = Json::parse(R"({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "tensor",
                                      "dynamic": false})");
  Json channel = tensor;
  channel["strategy"] = "channel";
  EXPECT_EQ(file.config(),
            Json({{"quant_method", "compressed-tensors"},
                  {"format", "float-quantized"},
                  {"quantization_status", "compressed"},
                  {"config_groups",
                   {{"group_0", {{"targets", {"Linear"}}, {"weights", channel}, {"input_activations", tensor}}}}},
                  {"ignore", Json::array()},
                  {"kv_cache_scheme", tensor}}));
}

TEST(SafetensorsTest, TheKvCacheAlone) {
  const auto exporter = NewExporter(kSafetensors);
  v1::ExportOptions options;
  options.mutable_safetensors()->set_least_kv_scale(1);
  ExportTensor heads = Activation(*exporter, "a.v_cache", {-1, 1});
  heads.qparams = QParamsOf("a.v_cache", *exporter->conventions().activations, {{-896, 1}, {-1, 1}});
  const SafetensorsFile file(FileOf(kSafetensors, {heads}, options));
  EXPECT_THAT(file.Floats("a.v_scale"), ElementsAre(2, 1));
  EXPECT_EQ(file.header().at("a.v_scale").at("shape"), Json::array({2}));
  EXPECT_EQ(file.config().at("config_groups"), Json::object());
  EXPECT_EQ(file.config().at("format"), "dense");
  EXPECT_EQ(file.config().at("kv_cache_scheme").at("strategy"), "attn_head");
}

TEST(SafetensorsTest, Asymmetric) {
  const auto exporter = NewExporter(kSafetensors);
  const QuantSpec int8 = {.scheme = QuantScheme::kAffine};
  const SafetensorsFile file(FileOf(kSafetensors, {WithSpec(Activation(*exporter, "a", {-2.5, 2.1}), int8),
                                                   WithSpec(Activation(*exporter, "b", {0, 2.55}), int8)}));
  EXPECT_THAT(file.Floats("a.input_scale"), ElementsAre(4.6f / 255));
  EXPECT_THAT(file.Codes("a.input_zero_point"), ElementsAre(139 - 128));
  EXPECT_THAT(file.Codes("b.input_zero_point"), ElementsAre(-128));
  EXPECT_EQ(file.config().at("format"), "int-quantized");
  EXPECT_EQ(file.config().at("config_groups").at("group_0").at("input_activations").at("symmetric"), false);
}

TEST(SafetensorsTest, Refusals) {
  const auto exporter = NewExporter(kSafetensors);
  const ExportTensor tensor = Activation(*exporter, "a", {-1, 2});
  const QuantSpec affine = {.scheme = QuantScheme::kAffine};
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.is_signed = false}}), "its type is uint8");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.kind = CodeKind::kFloat8E5M2}}), "its type is fp8_e5m2");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.reduce_range = true}), "codes are -64 to 63");
  ExpectRefused(exporter.get(), Activation(*exporter, "zeros", {0, 0}), "its range is zero");
  ExpectRefused(exporter.get(), WithName(tensor, "__metadata__"), "the file's own");
  ExpectRefused(exporter.get(), WithName(WithSpec(tensor, affine), "a_amax"), "does not end in _scale");
  ExpectRefused(exporter.get(), WithSpec(Activation(*exporter, "x.k_cache", {-1, 2}), affine), "KV cache");
  ExportTensor channels = tensor;
  channels.qparams = QParamsOf("a", *exporter->conventions().activations, {{-1, 1}, {-2, 2}});
  ExpectRefused(exporter.get(), channels, "2 scales");
  ExportTensor weight = Weight(*exporter, "a.weight", {{-1, 1}, {-2, 2}});
  weight.qparams.set_channel_axis(1);
  ExpectRefused(exporter.get(), weight, "not axis 0");

  // One description for all of a kind, and no name twice, zero points' too.
  ASSERT_TRUE(exporter->Add(WithSpec(tensor, affine)).ok());
  ExpectRefused(exporter.get(), Activation(*exporter, "b", {-1, 2}), "others of its kind are asymmetric int8");
  ExpectRefused(exporter.get(), WithName(WithSpec(Activation(*exporter, "b", {-1, 2}), affine), "a.input_zero_point"),
                "does not end in _scale");
  ExpectRefused(exporter.get(), WithName(Weight(*exporter, "c.weight", {{-1, 2}}), "a.input_zero_point"),
                "another layer has a tensor \"a.input_zero_point\"");
  for (const float scale : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    v1::ExportOptions options;
    options.mutable_safetensors()->set_least_kv_scale(scale);
    EXPECT_EQ(GetReason(exporter->Begin(options, "")), v1::ERROR_REASON_INVALID_FIELD);
  }
}

}  // namespace
}  // namespace calib::server
