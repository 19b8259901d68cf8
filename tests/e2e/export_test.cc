// calibctl export, with the real programs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class ExportTest : public testing::Test {
 protected:
  ExportTest() {
    CalibctlOk(server_.address(), {"session", "create", "model"});
    CalibctlOk(server_.address(), {"push", "model", "conv1=" + GoldenFile("conv1"), "fc1=" + GoldenFile("fc1"),
                                   "syn_zero=" + GoldenFile("syn_zero")});
  }
  ProcessResult Export(const std::vector<std::string>& arguments) {
    return Calibctl(server_.address(), Join({"export", "model"}, arguments));
  }
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  static std::string ReadFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  static void WriteFile(const std::string& path, const std::string& bytes) { std::ofstream(path) << bytes; }
  std::vector<std::string> FilesInFolder() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  // One clear line, exit code 1, and no file.
  void ExpectError(const std::vector<std::string>& arguments, const std::string& message) {
    const std::vector<std::string> before = FilesInFolder();
    const ProcessResult result = Export(arguments);
    EXPECT_EQ(result.exit_code, 1) << result.out;
    EXPECT_THAT(result.err, HasSubstr(message));
    EXPECT_THAT(result.err, StartsWith("calibctl: "));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(FilesInFolder(), before);
  }

  Server server_;
  TemporaryFolder folder_;
};

TEST_F(ExportTest, NumbersAreThoseOfQParams) {
  const ProcessResult exported = Export({"--format", "json", "-o", Path("a.json"), "--method", "mse"});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  EXPECT_THAT(exported.err, HasSubstr("session model: 3 layers in " + Path("a.json") + " (json, "));
  EXPECT_EQ(exported.out, "");
  const Json file = Json::parse(ReadFile(Path("a.json")));
  const Json qparams = CalibctlJson(server_.address(), {"qparams", "model", "--method", "mse"});
  ASSERT_EQ(file.at("layers").size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const Json& layer = file.at("layers").at(i);
    for (const auto& [key, value] : qparams.at("layers").at(i).items()) {
      if (key == "scale") {
        EXPECT_EQ(layer.at(key).at(0).get<float>(), value.at(0).get<float>());
      } else if (key == "min" || key == "max") {
        EXPECT_EQ(layer.at(key).get<float>(), value.get<float>());
      } else {
        EXPECT_EQ(layer.at(key), value) << key;
      }
    }
  }
  // The same once more, byte for byte.
  ASSERT_EQ(Export({"--format", "json", "-o", Path("b.json"), "--method", "mse"}).exit_code, 0);
  EXPECT_EQ(ReadFile(Path("a.json")), ReadFile(Path("b.json")));
}

TEST_F(ExportTest, EveryFormatThatNeedsNoInput) {
  for (const char* format : {"json", "csv", "tensorrt-cache", "onnxruntime-table", "onnxruntime-overrides",
                             "aimet-0.6.1", "aimet-1.0.0", "aimet-2.0.0", "safetensors", "mxnet"}) {
    const ProcessResult result =
        Export({"*1", "--format", format, "-o", Path(format), "--rename", "fc1=/fc1/Gemm_output_0"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(ReadFile(Path(format)), HasSubstr("/fc1/Gemm_output_0")) << format;
  }
}

TEST_F(ExportTest, TheSummaryNamesWhatIsLeftOut) {
  ExpectError({"--format", "tensorrt-cache", "-o", Path("c.cache")}, "layer \"syn_zero\": its range is zero");
  const std::vector<std::string> arguments = {
      "--format", "tensorrt-cache", "-o", Path("c.cache"), "--skip-unexportable", "--tensorrt-version", "8.6.1"};
  const ProcessResult text = Export(arguments);
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.err, HasSubstr("2 layers in "));
  EXPECT_THAT(text.err, HasSubstr("\nleft out: layer \"syn_zero\": its range is zero"));
  EXPECT_THAT(ReadFile(Path("c.cache")), StartsWith("TRT-8601-EntropyCalibration2\nconv1: "));

  const Json json = CalibctlJson(server_.address(), Join({"export", "model", "--force"}, arguments));
  EXPECT_EQ(json.at("format"), "tensorrt-cache");
  EXPECT_EQ(json.at("layers"), Json({"conv1", "fc1"}));
  EXPECT_EQ(json.at("bytes"), std::filesystem::file_size(Path("c.cache")));
  EXPECT_EQ(json.at("omitted").at(0).at("layer"), "syn_zero");
  EXPECT_EQ(json.at("omitted").at(0).at("reason"), "NOT_EXPORTABLE");
}

TEST_F(ExportTest, StandardOutputHasTheFileAlone) {
  const std::vector<std::string> arguments = {"fc1", "--format", "onnxruntime-overrides", "-o", "-"};
  const ProcessResult text = Export(arguments);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.err, HasSubstr("1 layers in standard output"));
  EXPECT_TRUE(Json::parse(text.out).contains("fc1"));
  const ProcessResult json = Export(Join(arguments, {"--json"}));
  EXPECT_EQ(json.out, text.out);
  EXPECT_EQ(Json::parse(json.err).at("layers"), Json::array({"fc1"}));
}

TEST_F(ExportTest, NamesComeFromAFileAndOptionsOverrideIt) {
  WriteFile(Path("names.json"), R"({"conv1": "a", "fc1": "b"})");
  const std::vector<std::string> arguments = {"*1", "--format", "csv", "-o", "-", "--names", Path("names.json")};
  const ProcessResult result = Export(Join(arguments, {"--rename", "fc1=c=d", "--rename", "conv1=e"}));
  // A layer's name may have an equals sign; the file's name is what is behind the last one.
  EXPECT_THAT(result.err, HasSubstr("no layer \"fc1=c\""));
  EXPECT_THAT(Export(Join(arguments, {"--rename", "fc1=c"})).out, HasSubstr("\nfc1,c,"));
  EXPECT_THAT(Export(arguments).out, HasSubstr("\nconv1,a,"));
  WriteFile(Path("bad.json"), R"(["conv1"])");
  ExpectError({"--format", "csv", "-o", Path("x"), "--names", Path("bad.json")}, "bad.json: is no JSON object");
  WriteFile(Path("bad.json"), R"({"conv1": 3})");
  ExpectError({"--format", "csv", "-o", Path("x"), "--names", Path("bad.json")}, "the name of \"conv1\" is no string");
  ExpectError({"--format", "csv", "-o", Path("x"), "--names", Path("none.json")}, "none.json: No such file");
}

TEST_F(ExportTest, ATableIsPatched) {
  WriteFile(Path("in.table"), "fc1_param_0 3.5 4.5 \nconv9_param_0 1 \nfc1 1.000000 \n");
  const std::vector<std::string> arguments = {"fc1", "--format", "ncnn", "-o", Path("out.table")};
  ExpectError(arguments, "no row \"fc1_param_0\"");
  ASSERT_EQ(Export(Join(arguments, {"--table", Path("in.table")})).exit_code, 0);
  const std::vector<std::string> lines = absl::StrSplit(ReadFile(Path("out.table")), '\n');
  const Json qparams =
      CalibctlJson(server_.address(), {"qparams", "model", "fc1", "--preset", "tensorrt"}).at("layers").at(0);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "fc1_param_0 3.5 4.5 ");
  EXPECT_EQ(lines[1], "conv9_param_0 1 ");
  ASSERT_THAT(lines[2], StartsWith("fc1 "));
  EXPECT_FLOAT_EQ(std::stof(lines[2].substr(4)), 1 / qparams.at("scale").at(0).get<float>());
  WriteFile(Path("empty"), "");
  ExpectError(Join(arguments, {"--table", Path("empty"), "--force"}), "empty: is empty");
  ExpectError(Join(arguments, {"--table", Path("none"), "--force"}), "none: No such file");
  ExpectError(Join(arguments, {"--table", folder_.path(), "--force"}), "is not a plain file");
}

TEST_F(ExportTest, AFileIsThereWholeOrNotAtAll) {
  WriteFile(Path("kept"), "precious");
  ExpectError({"--format", "json", "-o", Path("kept")}, "kept: exists; give --force");
  ExpectError({"--format", "tensorrt-cache", "-o", Path("kept"), "--force"}, "[NOT_EXPORTABLE]");
  EXPECT_EQ(ReadFile(Path("kept")), "precious");
  ASSERT_EQ(Export({"--format", "json", "-o", Path("kept"), "--force"}).exit_code, 0);
  EXPECT_THAT(ReadFile(Path("kept")), StartsWith("{\n"));
  EXPECT_THAT(FilesInFolder(), ElementsAre("kept"));
  ExpectError({"--format", "json", "-o", Path("nowhere/file")}, "nowhere/file");
}

TEST_F(ExportTest, WhatIsReplacedKeepsItsLinksAndPermissions) {
  WriteFile(Path("real"), "old");
  std::filesystem::permissions(Path("real"), std::filesystem::perms(0640));
  std::filesystem::create_symlink("real", Path("link"));
  ASSERT_EQ(Export({"--format", "json", "-o", Path("link"), "--force"}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_THAT(ReadFile(Path("real")), StartsWith("{\n"));
  EXPECT_EQ(std::filesystem::status(Path("real")).permissions(), std::filesystem::perms(0640));
  EXPECT_THAT(FilesInFolder(), ElementsAre("link", "real"));
}

TEST_F(ExportTest, WeightsHaveAScaleAChannelOrOne) {
  CalibctlOk(server_.address(), {"session", "create", "channels", "--channel-axis", "0"});
  CalibctlOk(server_.address(), {"push", "channels", "fc.weight=" + GoldenFile("fc1")});
  const auto scale = [&](const std::vector<std::string>& options) {
    const ProcessResult result =
        Calibctl(server_.address(), Join({"export", "channels", "--format", "aimet-2.0.0", "-o", "-"}, options));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out).at("encodings").at(0).at("y_scale");
  };
  const Json channels = scale({});
  EXPECT_GT(channels.size(), 1u);
  EXPECT_EQ(scale({"--weight-granularity", "per-channel"}), channels);
  EXPECT_TRUE(scale({"--weight-granularity", "per-tensor"}).is_number());
}

TEST_F(ExportTest, WrongUsageIsSaidWithoutAServer) {
  const std::vector<std::pair<std::vector<std::string>, const char*>> cases = {
      {{"--format", "json"}, "--output is required"},
      {{"-o", "x"}, "--format is required"},
      {{"--format", "tensorflow", "-o", "x"}, "unknown format \"tensorflow\"; use json, csv, onnx-qdq"},
      {{"--format", "json", "-o", "x", "--rename", "a"}, "\"a\" is not LAYER=NAME"},
      {{"--format", "json", "-o", "x", "--model", "a", "--table", "b"}, "excludes"},
      {{"--format", "json", "-o", "x", "--weight-dtype", "int99"}, "int99"},
      {{"--format", "json", "-o", "x", "--weight-granularity", "tensor"}, "--weight-granularity"},
      {{"--format", "json", "-o", "x", "--least-kv-scale", "-1"}, "--least-kv-scale"},
  };
  for (const auto& [arguments, says] : cases) {
    const ProcessResult result = Calibctl("127.0.0.1:1", Join({"export", "model"}, arguments));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(says));
    EXPECT_THAT(result.out, IsEmpty());
  }
}

}  // namespace
}  // namespace calib::test
