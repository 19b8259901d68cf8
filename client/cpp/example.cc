// Observes the activations of one layer and prints its int8 parameters: example HOST:PORT SESSION.
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "client/cpp/client.h"
#include "client/cpp/worker.h"

namespace {

absl::Status Run(const char* server, const char* session) {
  calib::client::ClientOptions options;
  options.server = server;
  auto client = std::make_shared<calib::client::Client>(options);

  calib::v1::CreateSessionRequest create;  // without rules: a histogram of every layer
  create.set_session(session);
  if (auto created = client->CreateSession(create); !created.ok()) return created.status();

  calib::client::WorkerOptions worker_options;
  worker_options.session = session;
  auto worker = calib::client::Worker::Open(client, worker_options);
  if (!worker.ok()) return worker.status();

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> activations(64 * 1024);
  const std::vector<uint64_t> shape = {64, 1024};
  for (int step = 0; step < 10; ++step) {
    for (float& value : activations) value = normal(random);
    calib::TensorView tensor;
    tensor.type = calib::DataType::kFloat32;
    tensor.shape = shape;
    tensor.data = {reinterpret_cast<const uint8_t*>(activations.data()), activations.size() * sizeof(float)};
    if (auto status = (*worker)->Observe("model.fc1", tensor); !status.ok()) return status;
  }
  if (auto status = (*worker)->Close(); !status.ok()) return status;  // everything is durable now

  calib::v1::ComputeQParamsRequest compute;
  compute.set_session(session);
  compute.mutable_method()->set_method(calib::v1::CALIBRATION_METHOD_MSE);
  auto qparams = client->ComputeQParams(compute);
  if (!qparams.ok()) return qparams.status();
  for (const auto& layer : qparams->layer()) {
    std::printf("%s: scale %.6g, zero point %lld\n", layer.layer().c_str(), layer.scale(0),
                static_cast<long long>(layer.zero_point(0)));
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s HOST:PORT SESSION\n", argv[0]);
    return 2;
  }
  const absl::Status status = Run(argv[1], argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}
