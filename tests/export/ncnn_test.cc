#include <limits>

#include "server/export/ncnn_table.h"
#include "tests/export/exporter_fixture.h"

namespace calib::server {
namespace {

using ::testing::HasSubstr;

constexpr v1::ExportFormat kNcnn = v1::EXPORT_FORMAT_NCNN;

TEST(NcnnTest, RowsOfTheSession) {
  const auto exporter = NewExporter(kNcnn);
  EXPECT_EQ(FileOf(kNcnn, {Activation(*exporter, "conv1", {-2.5, 2.1}), Activation(*exporter, "fc", {-0.5, 1}),
                           Weight(*exporter, "fc.weight", {{-1, 1}}),
                           Weight(*exporter, "conv1.weight", {{-0.8, 0.7}, {-0.3, 0.4}, {0, 0}})}),
            "conv1_param_0 158.75 317.5 1\n"
            "fc_param_0 127\n"
            "conv1 50.8\n"
            "fc 127\n");
}

TEST(NcnnTest, WeightsOfFewerBits) {
  const auto exporter = NewExporter(kNcnn);
  const ExportTensor weight =
      WithSpec(Weight(*exporter, "conv.weight", {{-2, 1}}), {.type = {.bits = 6}, .preset = QuantPreset::kTensorrt});
  EXPECT_EQ(FileOf(kNcnn, {weight}), "conv_param_0 15.5\n");
}

TEST(NcnnTest, RowsOfATableAreReplacedInPlace) {
  const auto exporter = NewExporter(kNcnn);
  const std::string table =
      "conv1_param_0 158.750000 317.500000 \r\n"
      "fc_param_0 10.5\n"
      "lm_param_1 bits=4 block=64 1.5\n"
      "# kept\n"
      "fc 3.5 \n"
      "#skipped 1.5\n"
      "\n";
  const std::vector<ExportTensor> tensors = {Activation(*exporter, "fc", {-1, 1}),
                                             Activation(*exporter, "conv1", {-2.5, 2.1})};
  EXPECT_EQ(FileOf(kNcnn, tensors, {}, table),
            "conv1_param_0 158.750000 317.500000 \n"
            "fc_param_0 10.5\n"
            "lm_param_1 bits=4 block=64 1.5\n"
            "# kept\n"
            "fc 127\n"
            "#skipped 1.5\n"
            "conv1 50.8\n");
}

TEST(NcnnTest, Refusals) {
  const auto exporter = NewExporter(kNcnn);
  ASSERT_TRUE(exporter->Begin({}, "a_param_0 1\n").ok());
  const ExportTensor tensor = Activation(*exporter, "a", {-1, 2});
  const ExportTensor weight = Weight(*exporter, "w.weight", {{-1, 1}, {-2, 2}});
  ExpectRefused(exporter.get(), WithName(tensor, "a b"), "has a space");
  ExpectRefused(exporter.get(), WithName(tensor, "a\tb"), "control character");
  ExpectRefused(exporter.get(), WithName(tensor, "#a"), "begins with #");
  ExpectRefused(exporter.get(), WithName(tensor, std::string(256, 'a')), "more than 255 bytes");
  ExpectRefused(exporter.get(), WithName(tensor, "a_param_0"), "takes it for a weight's");
  ExpectRefused(exporter.get(), WithName(weight, "w"), "no _param_0");
  for (const char* const name : {"w_param_y", "w_param_", "w_param_0x", "_param_0"}) {
    ExpectRefused(exporter.get(), WithName(weight, name), "no _param_0");
  }
  ExpectRefused(exporter.get(), WithSpec(weight, {.type = {.bits = 4, .is_signed = false}}), "uint4");
  ExpectRefused(exporter.get(), WithName(tensor, "b"), "no row \"b_param_0\"");
  ExpectRefused(exporter.get(), Activation(*exporter, "a", {0, 0}), "its range is zero");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.scheme = QuantScheme::kAffine}), "zero point");
  ExpectRefused(exporter.get(), WithSpec(tensor, {.type = {.bits = 4}}), "int4");
  ExpectRefused(exporter.get(), WithSpec(weight, {.type = {.bits = 16}}), "int16 from -32768 to 32767");
  ExpectRefused(exporter.get(), WithSpec(weight, {.scheme = QuantScheme::kAffine}), "zero point");
  ExpectRefused(exporter.get(), WithName(Weight(*exporter, "a.weight", {{0, 0}}), "a_param_1"), "its range is zero");
  ExportTensor tiny = tensor;
  tiny.qparams.set_scale(0, std::numeric_limits<float>::denorm_min());
  ExpectRefused(exporter.get(), tiny, "passes float32");
  EXPECT_TRUE(exporter->Add(tensor).ok());
}

TEST(NcnnTest, AnActivationNeedsTheFirstOfItsWeights) {
  const auto exporter = NewExporter(kNcnn);
  ASSERT_TRUE(exporter->Begin({}, "a_param_1 1\na_param_y 1\n").ok());
  ExpectRefused(exporter.get(), Activation(*exporter, "a", {-1, 2}), "no row \"a_param_0\"");
}

TEST(NcnnTableTest, WhatIsNoTable) {
  const std::pair<const char*, const char*> cases[] = {
      {"a_param_0 1\n\na 1\n", "line 2 is blank"},
      {"a\n", "line 1 is no row"},
      {" a 1\n", "line 1 is no row"},
      {"a\t1\n", "line 1 has a tab"},
      {"a_param_0 1\na 1\na 2\n", "line 3 has the key"},
      {"a 1 x\n", "line 1 has \"x\" for a number"},
      {"\x89PNG\r\n\x1a\n", "line 1 is no row"},
  };
  for (const auto& [text, says] : cases) {
    const absl::Status status = NcnnTable::Parse(text).status();
    EXPECT_EQ(GetReason(status), v1::ERROR_REASON_EXPORT_INPUT_INVALID) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
  const std::string long_key = std::string(256, 'k') + " 1\n";
  EXPECT_THAT(std::string(NcnnTable::Parse(long_key).status().message()), HasSubstr("255 bytes"));
  EXPECT_EQ(NcnnTable::Parse("")->ToText(), "\n");
}

}  // namespace
}  // namespace calib::server
