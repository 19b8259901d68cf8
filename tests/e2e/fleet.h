#ifndef CALIB_TESTS_E2E_FLEET_H_
#define CALIB_TESTS_E2E_FLEET_H_

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/process.h"
#include "tests/support/temporary_folder.h"

namespace calib::test {

using Json = nlohmann::ordered_json;

// The layers of tests/golden/digits_cnn, in name order.
std::vector<std::string> GoldenLayers();
std::string GoldenFile(const std::string& layer);
// LAYER=FILE.npy of each golden layer, as `calibctl push` takes them.
std::vector<std::string> GoldenArguments();
// The object "layers" of expected.json.
const Json& GoldenExpected();

// A calibd process with ports of its own, and a store in memory unless the options name one.
class Server {
 public:
  explicit Server(const std::vector<std::string>& options = {});

  const std::string& address() const { return address_; }
  const std::string& http() const { return http_; }
  Process& process() { return *process_; }

 private:
  std::unique_ptr<Process> process_;
  std::string address_;
  std::string http_;
};

// The command line of calibctl with these arguments, for a server's address.
std::vector<std::string> CalibctlCommand(const std::string& address, const std::vector<std::string>& arguments);
// Runs it to its end.
ProcessResult Calibctl(const std::string& address, const std::vector<std::string>& arguments);
// The same; fails the test, with what it printed, unless the exit code is 0. Returns stdout.
std::string CalibctlOk(const std::string& address, const std::vector<std::string>& arguments);
// The same with --json, parsed.
Json CalibctlJson(const std::string& address, const std::vector<std::string>& arguments);

// Puts `more` behind `arguments`.
std::vector<std::string> Join(std::vector<std::string> arguments, const std::vector<std::string>& more);

// A version 1.0 .npy file: the header as NumPy writes it for `descr` and `shape` ("(6, 32)"), then the data.
std::string NpyText(const std::string& descr, const std::string& shape, const std::string& data);
// float32 values as the bytes of such a file.
std::string FloatBytes(const std::vector<float>& values);

}  // namespace calib::test

#endif  // CALIB_TESTS_E2E_FLEET_H_
