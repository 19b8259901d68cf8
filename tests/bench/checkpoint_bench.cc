// What durability costs ingestion: 8 streams of histogram updates into one session of a calibd that keeps it in memory
// and makes no checkpoints of its own, and of one that commits to RocksDB every second, in turn; medians of the ratios.
// A repetition ends when everything was acknowledged as durable.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/ingest_work.h"
#include "tests/support/process.h"
#include "tests/support/temporary_folder.h"

namespace calib::bench {
namespace {

constexpr int kStreams = 8;
constexpr int kLayers = 100;

std::vector<std::string> ServerWith(const std::vector<std::string>& options) {
  std::vector<std::string> command = {CALIB_BIN_DIR "/calibd", "--listen", "127.0.0.1:0", "--http", ""};
  command.insert(command.end(), options.begin(), options.end());
  return command;
}

// Seconds that all streams take together.
double StreamTogether(const std::string& address, const IngestWork& work, const std::string& session) {
  CreateSessionFor(ConnectTo(address).get(), work, session);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.emplace_back([&, worker = "bench-" + std::to_string(i)] {
      StreamWork(ConnectTo(address).get(), work, session, worker, /*bare=*/false);
    });
  }
  for (std::thread& stream : streams) stream.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int Run(const std::string& folder, int repetitions, int messages) {
  const IngestWork work = StatisticsWork(ObserverKind::kHistogram, kLayers, messages);
  test::Process memory(ServerWith({"--store", "memory", "--checkpoint-interval", "inf"}));
  test::Process rocksdb(ServerWith({"--store", "rocksdb:" + folder + "/store", "--checkpoint-interval", "1s"}));
  const std::string memory_address = memory.WaitForAddress("grpc"), rocksdb_address = rocksdb.WaitForAddress("grpc");
  std::vector<double> memory_seconds, rocksdb_seconds, ratios;
  for (int i = 0; i <= repetitions; ++i) {
    const std::string session = "bench-" + std::to_string(i);
    const double of_memory = StreamTogether(memory_address, work, session);
    const double of_rocksdb = StreamTogether(rocksdb_address, work, session);
    if (i == 0) continue;  // warm-up
    memory_seconds.push_back(of_memory);
    rocksdb_seconds.push_back(of_rocksdb);
    ratios.push_back(of_rocksdb / of_memory);
  }
  const double updates = static_cast<double>(kStreams) * messages * kLayers;
  const nlohmann::ordered_json result = {{"streams", kStreams},
                                         {"layers", kLayers},
                                         {"messages", kStreams * messages},
                                         {"seconds", Median(rocksdb_seconds)},
                                         {"memory_updates_per_s", updates / Median(memory_seconds)},
                                         {"rocksdb_updates_per_s", updates / Median(rocksdb_seconds)},
                                         {"overhead", Median(ratios) - 1}};
  std::printf("%s\n", result.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace calib::bench

int main(int argc, char** argv) {
  CLI::App app{"Ingestion with checkpoints beside ingestion without; prints JSON."};
  int repetitions = 5;
  int messages = 1000;
  std::string folder;
  app.add_option("--repetitions", repetitions, "Counted repetitions, after one warm-up")->check(CLI::Range(1, 100));
  app.add_option("--messages", messages, "Messages of each stream in a repetition")->check(CLI::PositiveNumber);
  app.add_option("--folder", folder, "Where the store is made; a temporary folder unless given");
  CLI11_PARSE(app, argc, argv);
  const calib::test::TemporaryFolder temporary;
  return calib::bench::Run(folder.empty() ? temporary.path() : folder, repetitions, messages);
}
