// Ingestion into calibd beside a bare gRPC stream that discards the same bytes, as gRPC comes and with malloc set as
// calibd sets its own: separate server processes, the same client code, in turn, several repetitions, medians. A
// repetition ends when everything was answered (calibd: applied and durable).

#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"
#include "tests/bench/bare_server.h"
#include "tests/support/process.h"

namespace calib::bench {
namespace {

// What one message carries, and how many values and rows that stands for.
struct Work {
  std::string name;
  v1::Update update;  // its units are set before each send
  std::vector<std::string> layers;
  ObserverKind observer = ObserverKind::kHistogram;
  uint64_t rows = 0;
  int messages = 0;
};

std::vector<uint8_t> GaussianBytes(size_t elements, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> gauss;
  std::vector<uint8_t> bytes(4 * elements);
  for (size_t i = 0; i < elements; ++i) {
    const float x = gauss(rng);
    std::memcpy(&bytes[4 * i], &x, 4);
  }
  return bytes;
}

Work RawWork(int messages) {
  Work work{.name = "raw tensors, 1 MiB chunks", .layers = {"layer"}, .rows = 1, .messages = messages};
  const std::vector<uint8_t> bytes = GaussianBytes(kMaxTensorChunkBytes / 4, 1);
  v1::TensorChunk* chunk = work.update.mutable_tensor();
  chunk->set_data_type(v1::DATA_TYPE_FLOAT32);
  chunk->add_shape(bytes.size() / 4);
  chunk->set_data(bytes.data(), bytes.size());
  return work;
}

Work StatisticsWork(ObserverKind kind, int layers, int messages) {
  Work work{.name = kind == ObserverKind::kHistogram ? "histogram updates, " : "range updates, ",
            .observer = kind,
            .rows = static_cast<uint64_t>(layers),
            .messages = messages};
  work.name += std::to_string(layers) + " layers a message";
  TensorObserver observer;
  StatisticsWriter writer;
  for (int i = 0; i < layers; ++i) {
    work.layers.push_back("layer" + std::to_string(i));
    const std::vector<uint8_t> bytes = GaussianBytes(32 << 10, i + 1);
    const uint64_t shape[] = {bytes.size() / 4};
    LayerStatistics statistics{ObserverConfig{.kind = kind}};
    if (!observer.Observe({DataType::kFloat32, shape, 0, bytes}, &statistics).ok()) std::abort();
    writer.Add(i, statistics, work.update.mutable_statistics());
  }
  return work;
}

// Streams the work once; returns seconds. Exits the program on any error: a benchmark of failures says nothing.
double Stream(v1::Calibration::Stub* stub, const Work& work, const std::string& session, bool bare) {
  const auto die = [&work](const std::string& what) {
    std::fprintf(stderr, "ingest_bench: %s: %s\n", work.name.c_str(), what.c_str());
    std::exit(1);
  };
  if (!bare) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    v1::CreateSessionResponse response;
    request.set_session(session);
    v1::LayerRule* rule = request.mutable_config()->add_rules();
    rule->set_pattern("*");
    rule->mutable_observer()->set_kind(work.observer == ObserverKind::kHistogram ? v1::OBSERVER_KIND_HISTOGRAM
                                                                                 : v1::OBSERVER_KIND_MINMAX);
    const grpc::Status status = stub->CreateSession(&context, request, &response);
    if (!status.ok()) die(status.error_message());
  }
  grpc::ClientContext context;
  const auto start = std::chrono::steady_clock::now();
  const auto stream = stub->Observe(&context);
  v1::ObserveRequest request;
  request.mutable_open()->set_session(session);
  request.mutable_open()->set_worker_id("bench");
  stream->Write(request);
  request.mutable_register_layers()->set_first_handle(0);
  for (const std::string& layer : work.layers) request.mutable_register_layers()->add_name(layer);
  stream->Write(request);
  uint64_t durable = 0;
  std::string refusal;
  std::thread reader([&] {
    v1::ObserveResponse response;
    while (stream->Read(&response)) {
      if (response.has_ack()) durable = response.ack().durable();
      if (response.has_refusal()) refusal = response.refusal().message();
    }
  });
  *request.mutable_update() = work.update;
  for (int i = 1; i <= work.messages; ++i) {
    request.mutable_update()->set_first(i);
    request.mutable_update()->set_last(i);
    if (!stream->Write(request)) break;
  }
  stream->WritesDone();
  reader.join();
  const grpc::Status status = stream->Finish();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  if (!status.ok()) die(status.error_message());
  if (!refusal.empty()) die(refusal);
  if (!bare && durable != static_cast<uint64_t>(work.messages)) die("not everything became durable");
  return elapsed.count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::unique_ptr<v1::Calibration::Stub> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return v1::Calibration::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

int Run(const std::string& self, int repetitions, double scale) {
  const auto times = [scale](int messages) { return std::max(1, static_cast<int>(messages * scale)); };
  const std::vector<Work> works = {RawWork(times(768)), StatisticsWork(ObserverKind::kHistogram, 100, times(2000)),
                                   StatisticsWork(ObserverKind::kMinMax, 100, times(20000))};
  test::Process bare_process({self, "--bare-server"});
  test::Process tuned_process({self, "--bare-server", "--keep-freed-memory"});
  test::Process calibd_process({std::string(CALIB_BIN_DIR) + "/calibd", "--store", "memory", "--listen", "127.0.0.1:0", "--http", ""});
  const auto bare = Connect(bare_process.WaitForAddress("grpc"));
  const auto tuned = Connect(tuned_process.WaitForAddress("grpc"));
  const auto calibd = Connect(calibd_process.WaitForAddress("grpc"));
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const Work& work : works) {
    std::vector<double> bare_seconds, tuned_seconds, calibd_seconds, ratios, tuned_ratios;
    for (int i = 0; i <= repetitions; ++i) {
      const double of_bare = Stream(bare.get(), work, "bare", true);
      const double of_tuned = Stream(tuned.get(), work, "bare", true);
      const double of_calibd =
          Stream(calibd.get(), work, "bench-" + std::to_string(&work - works.data()) + "-" + std::to_string(i), false);
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
