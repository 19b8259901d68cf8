// Ingestion into calibd beside a bare gRPC stream that discards the same bytes, as gRPC comes and with malloc set as
// calibd sets its own: separate server processes, the same client code, in turn, several repetitions, medians. A
// repetition ends when everything was answered (calibd: applied and durable).

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/bench/bare_server.h"
#include "tests/bench/ingest_work.h"
#include "tests/support/process.h"

namespace calib::bench {
namespace {

int Run(const std::string& self, int repetitions, double scale) {
  const auto times = [scale](int messages) { return std::max(1, static_cast<int>(messages * scale)); };
  const std::vector<IngestWork> works = {RawWork(times(768)),
                                         StatisticsWork(ObserverKind::kHistogram, 100, times(2000)),
                                         StatisticsWork(ObserverKind::kMinMax, 100, times(20000))};
  test::Process bare_process({self, "--bare-server"});
  test::Process tuned_process({self, "--bare-server", "--keep-freed-memory"});
  test::Process calibd_process(
      {std::string(CALIB_BIN_DIR) + "/calibd", "--store", "memory", "--listen", "127.0.0.1:0", "--http", ""});
  const auto bare = ConnectTo(bare_process.WaitForAddress("grpc"));
  const auto tuned = ConnectTo(tuned_process.WaitForAddress("grpc"));
  const auto calibd = ConnectTo(calibd_process.WaitForAddress("grpc"));
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const IngestWork& work : works) {
    std::vector<double> bare_seconds, tuned_seconds, calibd_seconds, ratios, tuned_ratios;
    for (int i = 0; i <= repetitions; ++i) {
      const double of_bare = StreamWork(bare.get(), work, "bare", "bench", true);
      const double of_tuned = StreamWork(tuned.get(), work, "bare", "bench", true);
      const std::string session = "bench-" + std::to_string(&work - works.data()) + "-" + std::to_string(i);
      CreateSessionFor(calibd.get(), work, session);
      const double of_calibd = StreamWork(calibd.get(), work, session, "bench", false);
      if (i == 0) continue;  // warm-up
      bare_seconds.push_back(of_bare);
      tuned_seconds.push_back(of_tuned);
      calibd_seconds.push_back(of_calibd);
      ratios.push_back(of_bare / of_calibd);
      tuned_ratios.push_back(of_tuned / of_calibd);
    }
    const double mebibytes = work.messages * static_cast<double>(work.update.ByteSizeLong()) / (1 << 20);
    results.push_back({{"work", work.name},
                       {"messages", work.messages},
                       {"mib_per_message", mebibytes / work.messages},
                       {"bare_mib_per_s", mebibytes / Median(bare_seconds)},
                       {"bare_tuned_mib_per_s", mebibytes / Median(tuned_seconds)},
                       {"calibd_mib_per_s", mebibytes / Median(calibd_seconds)},
                       {"calibd_rows_per_s", work.messages * static_cast<double>(work.rows) / Median(calibd_seconds)},
                       {"ratio", Median(ratios)},
                       {"ratio_to_tuned", Median(tuned_ratios)}});
  }
  std::printf("%s\n", results.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace calib::bench

int main(int argc, char** argv) {
  CLI::App app{"Ingestion into calibd beside a bare gRPC stream that discards the same bytes; prints JSON."};
  bool bare_server = false;
  bool keep_freed_memory = false;
  int repetitions = 5;
  double scale = 1;
  app.add_flag("--bare-server", bare_server, "Be the bare server, until standard input closes");
  app.add_flag("--keep-freed-memory", keep_freed_memory, "Set the bare server's malloc as calibd sets its own");
  app.add_option("--repetitions", repetitions, "Counted repetitions of each work, after one warm-up")
      ->check(CLI::Range(1, 100));
  app.add_option("--scale", scale, "Share of the messages of each repetition to send")->check(CLI::Range(0.0, 100.0));
  CLI11_PARSE(app, argc, argv);
  return bare_server ? calib::bench::RunBareServer(keep_freed_memory) : calib::bench::Run(argv[0], repetitions, scale);
}
