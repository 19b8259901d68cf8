#include "tests/bench/ingest_work.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "proto/codec/statistics_codec.h"
#include "quant/observe.h"

namespace calib::bench {
namespace {

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

void Fail(const IngestWork& work, const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", work.name.c_str(), what.c_str());
  std::exit(1);
}

}  // namespace

IngestWork RawWork(int messages) {
  IngestWork work{.name = "raw tensors, 1 MiB chunks", .layers = {"layer"}, .rows = 1, .messages = messages};
  const std::vector<uint8_t> bytes = GaussianBytes(kMaxTensorChunkBytes / 4, 1);
  v1::TensorChunk* chunk = work.update.mutable_tensor();
  chunk->set_data_type(v1::DATA_TYPE_FLOAT32);
  chunk->add_shape(bytes.size() / 4);
  chunk->set_data(bytes.data(), bytes.size());
  return work;
}

IngestWork StatisticsWork(ObserverKind kind, int layers, int messages) {
  IngestWork work{.name = kind == ObserverKind::kHistogram ? "histogram updates, " : "range updates, ",
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

std::unique_ptr<v1::Calibration::Stub> ConnectTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return v1::Calibration::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

void CreateSessionFor(v1::Calibration::Stub* stub, const IngestWork& work, const std::string& session) {
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  v1::CreateSessionResponse response;
  request.set_session(session);
  v1::LayerRule* rule = request.mutable_config()->add_rules();
  rule->set_pattern("*");
  rule->mutable_observer()->set_kind(work.observer == ObserverKind::kHistogram ? v1::OBSERVER_KIND_HISTOGRAM
                                                                               : v1::OBSERVER_KIND_MINMAX);
  const grpc::Status status = stub->CreateSession(&context, request, &response);
  if (!status.ok()) Fail(work, status.error_message());
}

double StreamWork(v1::Calibration::Stub* stub, const IngestWork& work, const std::string& session,
                  const std::string& worker_id, bool bare) {
  grpc::ClientContext context;
  const auto start = std::chrono::steady_clock::now();
  const auto stream = stub->Observe(&context);
  v1::ObserveRequest request;
  request.mutable_open()->set_session(session);
  request.mutable_open()->set_worker_id(worker_id);
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
  if (!status.ok()) Fail(work, status.error_message());
  if (!refusal.empty()) Fail(work, refusal);
  if (!bare && durable != static_cast<uint64_t>(work.messages)) Fail(work, "not everything became durable");
  return elapsed.count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace calib::bench
