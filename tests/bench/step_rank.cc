// One rank of a session with synchronous steps, for steps.py, which starts as many as there are ranks. Reads lines
// "WORK RANKS STEPS" from standard input, until it ends. Of each, ranks 0 to RANKS - 1 take STEPS steps together: all
// layers' extremes in one call, each averaged over the steps by the server. They print the seconds that each step took
// as a JSON list.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/cpp/client.h"
#include "client/cpp/sync_worker.h"

namespace calib::bench {
namespace {

// Exits the program: a benchmark of failures says nothing.
[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "step_rank: %s\n", status.ToString().c_str());
  std::exit(1);
}

// A tensor of two elements a layer: the extremes that the rank would have found.
struct Extremes {
  std::string name;
  std::vector<float> values;
};

class Rank {
 public:
  Rank(const std::string& server, uint32_t rank, int layers) : rank_(rank) {
    client::ClientOptions options;
    options.server = server;
    client_ = std::make_shared<client::Client>(options);
    for (int i = 0; i < layers; ++i) {
      const float width = static_cast<float>(1 + rank + i);
      extremes_.push_back({absl::StrCat("layer", i), {-width, width}});
    }
    for (const Extremes& layer : extremes_) {
      TensorView tensor{.shape = shape_};
      tensor.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(layer.values.data()), 2 * sizeof(float));
      layers_.push_back({layer.name, tensor});
    }
  }

  // Seconds of each step.
  std::vector<double> Run(uint32_t ranks, int steps) {
    client::SyncWorker* const worker = WorkerOf(ranks);
    std::vector<double> seconds;
    for (int i = 0; i < steps; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const auto result = worker->Step(layers_);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      if (!result.ok()) Die(result.status());
      if (result->ranks != ranks || result->layers[0].step_max[0] != static_cast<float>(ranks)) {
        Die(absl::InternalError("not everybody's extremes were reduced"));
      }
      seconds.push_back(elapsed.count());
    }
    return seconds;
  }

 private:
  // The worker in the session of so many ranks; made when it is first asked for.
  client::SyncWorker* WorkerOf(uint32_t ranks) {
    std::unique_ptr<client::SyncWorker>& worker = workers_[ranks];
    if (worker != nullptr) return worker.get();
    v1::CreateSessionRequest request;
    request.set_session(absl::StrCat("bench-", ranks));
    v1::LayerRule* const rule = request.mutable_config()->add_rules();
    rule->set_pattern("*");
    rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_EMA);
    rule->mutable_observer()->mutable_ema()->set_convention(v1::EMA_CONVENTION_MEGENGINE);
    request.mutable_config()->mutable_synchronous()->set_world_size(ranks);
    if (const auto created = client_->CreateSession(request); !created.ok()) Die(created.status());
    client::SyncWorkerOptions options;
    options.session = request.session();
    options.rank = rank_;
    auto opened = client::SyncWorker::Open(client_, options);
    if (!opened.ok()) Die(opened.status());
    worker = *std::move(opened);
    return worker.get();
  }

  const uint32_t rank_;
  const std::vector<uint64_t> shape_ = {2};
  std::shared_ptr<client::Client> client_;
  std::vector<Extremes> extremes_;
  std::vector<client::StepLayer> layers_;
  std::map<uint32_t, std::unique_ptr<client::SyncWorker>> workers_;  // by number of ranks
};

}  // namespace
}  // namespace calib::bench

int main(int argc, char** argv) {
  CLI::App app{"One rank that takes synchronous steps; steps.py runs it."};
  std::string server;
  uint32_t rank = 0;
  int layers = 0;
  app.add_option("--server", server)->required();
  app.add_option("--rank", rank)->required();
  app.add_option("--layers", layers)->required()->check(CLI::Range(1, 100000));
  CLI11_PARSE(app, argc, argv);
  calib::bench::Rank bench(server, rank, layers);
  std::cout << "{}" << std::endl;
  std::string work;
  uint32_t ranks = 0;
  int steps = 0;
  while (std::cin >> work >> ranks >> steps) {
    std::cout << nlohmann::json(bench.Run(ranks, steps)) << std::endl;
  }
  return 0;
}
