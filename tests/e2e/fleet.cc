#include "tests/e2e/fleet.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace calib::test {
namespace {

constexpr char kGoldenFolder[] = CALIB_GOLDEN_DIR "/digits_cnn";

}  // namespace

std::vector<std::string> GoldenLayers() {
  std::vector<std::string> layers;
  for (const auto& entry : std::filesystem::directory_iterator(kGoldenFolder)) {
    if (entry.path().extension() == ".npy") layers.push_back(entry.path().stem());
  }
  std::sort(layers.begin(), layers.end());
  return layers;
}

std::string GoldenFile(const std::string& layer) { return std::string(kGoldenFolder) + "/" + layer + ".npy"; }

std::vector<std::string> GoldenArguments() {
  std::vector<std::string> arguments;
  for (const std::string& layer : GoldenLayers()) arguments.push_back(layer + "=" + GoldenFile(layer));
  return arguments;
}

const Json& GoldenExpected() {
  static const Json& expected = *new Json([] {
    std::ifstream file(std::string(kGoldenFolder) + "/expected.json");
    return Json::parse(file).at("layers");
  }());
  return expected;
}

namespace {

bool HasStore(const std::vector<std::string>& options) {
  return std::find(options.begin(), options.end(), "--store") != options.end();
}

}  // namespace

Server::Server(const std::vector<std::string>& options)
    : process_(
          std::make_unique<Process>(Join({CALIB_BIN_DIR "/calibd", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"},
                                         HasStore(options) ? options : Join({"--store", "memory"}, options)))),
      address_(process_->WaitForAddress("grpc")),
      http_(process_->WaitForAddress("http")) {}

std::vector<std::string> CalibctlCommand(const std::string& address, const std::vector<std::string>& arguments) {
  return Join({CALIB_BIN_DIR "/calibctl", "--server", address}, arguments);
}

ProcessResult Calibctl(const std::string& address, const std::vector<std::string>& arguments) {
  return RunProcess(CalibctlCommand(address, arguments));
}

std::string CalibctlOk(const std::string& address, const std::vector<std::string>& arguments) {
  const ProcessResult result = Calibctl(address, arguments);
  EXPECT_EQ(result.exit_code, 0) << "calibctl " << arguments[0] << ": " << result.err;
  EXPECT_EQ(result.err, "");
  return result.out;
}

Json CalibctlJson(const std::string& address, const std::vector<std::string>& arguments) {
  const std::string out = CalibctlOk(address, Join({"--json"}, arguments));
  Json json = Json::parse(out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << out;
  return json;
}

std::vector<std::string> Join(std::vector<std::string> arguments, const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string NpyText(const std::string& descr, const std::string& shape, const std::string& data) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string text = "\x93NUMPY";
  text += std::string("\x01\x00", 2);
  text += static_cast<char>(header.size() & 0xff);
  text += static_cast<char>(header.size() >> 8);
  return text + header + data;
}

std::string FloatBytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

}  // namespace calib::test
