// Fills a store as a server would have left it, for restart.py: sessions of realistic histograms.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/store/rocksdb_store.h"
#include "tests/bench/bench_layer.h"

namespace calib::bench {
namespace {

absl::Status FillStore(const std::string& path, int sessions, int layers) {
  // The same statistics for many layers: a store takes each as its own.
  std::vector<std::shared_ptr<const LayerStatistics>> statistics;
  for (const LayerStatistics& layer : FleetStatistics()) {
    statistics.emplace_back(std::shared_ptr<const LayerStatistics>(), &layer);
  }
  const std::unique_ptr<server::Store> store = server::NewRocksDbStore({.path = path});
  const absl::StatusOr<uint64_t> epoch = store->Open();
  if (!epoch.ok()) return epoch.status();
  for (int session = 0; session < sessions; ++session) {
    server::SessionCheckpoint checkpoint;
    checkpoint.session.name = absl::StrFormat("session-%06d", session);
    checkpoint.session.uid = absl::StrFormat("%032x", session + 1);
    checkpoint.session.create_time = checkpoint.session.update_time = absl::Now();
    checkpoint.session.updates_applied = 1;
    checkpoint.workers.push_back({.id = "worker", .incarnation = 1, .applied = 1});
    for (int layer = 0; layer < layers; ++layer) {
      const size_t which = static_cast<size_t>(session * layers + layer) % statistics.size();
      checkpoint.layers.push_back({absl::StrFormat("model.layers.%d.mlp", layer), statistics[which], {0}});
    }
    std::vector<server::SessionCheckpoint> checkpoints;
    checkpoints.push_back(std::move(checkpoint));
    if (absl::Status status = store->Commit(*epoch, std::move(checkpoints)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace calib::bench

int main(int argc, char** argv) {
  CLI::App app{"Fills a store with sessions of realistic histograms."};
  std::string path;
  int sessions = 1000;
  int layers = 100;
  app.add_option("--path", path, "Folder of the store")->required();
  app.add_option("--sessions", sessions)->check(CLI::PositiveNumber);
  app.add_option("--layers", layers, "Layers of each session")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = calib::bench::FillStore(path, sessions, layers);
  if (status.ok()) return 0;
  std::fprintf(stderr, "fill_store: %s\n", std::string(status.message()).c_str());
  return 1;
}
