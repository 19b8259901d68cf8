// Learned scales: four ranks that train on parts of each batch learn what one process learns from all of it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "client/cpp/client.h"
#include "client/cpp/sync_worker.h"
#include "quant/learned.h"
#include "tests/e2e/fleet.h"

namespace calib::test {
namespace {

constexpr size_t kFeatures = 8;
constexpr size_t kBatch = 16;
constexpr int kTrainingSteps = 40;
constexpr int64_t kGreatestActivation = 15;  // uint4
constexpr int64_t kGreatestWeight = 7;       // int4
constexpr float kLearningRate = 0.05f;       // of the weights

// What is learned, after a step.
struct Learned {
  float activation_scale = 0;
  float activation_zero_point = 0;
  float weight_scale = 0;
};

struct Trajectory {
  std::vector<Learned> learned;
  std::vector<double> loss;
};

// The samples of one step: y is a linear function of x, with noise.
struct Batch {
  std::vector<float> x = std::vector<float>(kBatch * kFeatures);
  std::vector<float> y = std::vector<float>(kBatch);
};

Batch MakeBatch(uint64_t step) {
  std::mt19937_64 rng(step);
  std::normal_distribution<float> gauss;
  Batch batch;
  for (size_t i = 0; i < kBatch; ++i) {
    batch.y[i] = 0.1f * gauss(rng);
    for (size_t k = 0; k < kFeatures; ++k) {
      float& x = batch.x[i * kFeatures + k];
      x = 0.5f + gauss(rng);
      batch.y[i] += x * (static_cast<float>(k) - 3) / 4;
    }
  }
  return batch;
}

// What a rank computes of its samples: gradients of the sum of their losses, (prediction - y)^2 / 2.
struct RankGradients {
  double activation_scale = 0, activation_zero_point = 0, weight_scale = 0;
  std::vector<float> weights = std::vector<float>(kFeatures);
  double loss = 0;
};

// prediction = sum of fake-quantized activations times fake-quantized weights.
RankGradients Backward(const Learned& learned, const std::vector<float>& weights, absl::Span<const float> x,
                       absl::Span<const float> y) {
  const float no_zero_point = 0;
  const LearnedParams of_x{.scale = absl::MakeConstSpan(&learned.activation_scale, 1),
                           .zero_point = absl::MakeConstSpan(&learned.activation_zero_point, 1),
                           .qmin = 0,
                           .qmax = kGreatestActivation};
  const LearnedParams of_weights{.scale = absl::MakeConstSpan(&learned.weight_scale, 1),
                                 .zero_point = absl::MakeConstSpan(&no_zero_point, 1),
                                 .qmin = -kGreatestWeight - 1,
                                 .qmax = kGreatestWeight};
  const ChannelBlocks x_blocks{.inner = x.size()}, weight_blocks{.inner = kFeatures};
  std::vector<float> qx(x.size()), qw(kFeatures), dqx(x.size()), dqw(kFeatures), dx(x.size());
  EXPECT_TRUE(FakeQuantize(of_x, x_blocks, x, absl::MakeSpan(qx)).ok());
  EXPECT_TRUE(FakeQuantize(of_weights, weight_blocks, weights, absl::MakeSpan(qw)).ok());

  RankGradients gradients;
  std::vector<double> weight_sums(kFeatures);
  for (size_t i = 0; i < y.size(); ++i) {
    double error = -y[i];
    for (size_t k = 0; k < kFeatures; ++k) error += double{qx[i * kFeatures + k]} * qw[k];
    gradients.loss += error * error / 2;
    for (size_t k = 0; k < kFeatures; ++k) {
      dqx[i * kFeatures + k] = static_cast<float>(error * qw[k]);
      weight_sums[k] += error * qx[i * kFeatures + k];
    }
  }
  for (size_t k = 0; k < kFeatures; ++k) dqw[k] = static_cast<float>(weight_sums[k]);
  double no_gradient = 0;
  EXPECT_TRUE(FakeQuantizeGradients(of_x, x_blocks, 1, x, dqx, absl::MakeSpan(dx),
                                    absl::MakeSpan(&gradients.activation_scale, 1),
                                    absl::MakeSpan(&gradients.activation_zero_point, 1))
                  .ok());
  EXPECT_TRUE(FakeQuantizeGradients(of_weights, weight_blocks, 1, weights, dqw, absl::MakeSpan(gradients.weights),
                                    absl::MakeSpan(&gradients.weight_scale, 1), absl::MakeSpan(&no_gradient, 1))
                  .ok());
  return gradients;
}

// Ranks in threads, each with so many of a batch's samples.
class Training {
 public:
  Training(const std::string& address, const std::string& session, std::vector<size_t> samples)
      : samples_(std::move(samples)) {
    client::ClientOptions options;
    options.server = address;
    const auto client = std::make_shared<client::Client>(options);
    v1::CreateSessionRequest request;
    request.set_session(session);
    request.mutable_config()->mutable_synchronous()->set_world_size(static_cast<uint32_t>(samples_.size()));
    v1::LearnedOptions* const activation = AddRule("activation", /*is_signed=*/false, &request);
    activation->set_optimizer(v1::LEARNED_OPTIMIZER_SGD);
    activation->set_momentum(0.5);
    activation->set_learning_rate(0.5);
    // All ranks have all weights, so LSQ's factor of their elements is not that of the ranks' elements together.
    v1::LearnedOptions* const weight = AddRule("weight", /*is_signed=*/true, &request);
    weight->set_plain_gradients(true);
    weight->set_optimizer(v1::LEARNED_OPTIMIZER_SGD);
    weight->set_momentum(0.25);
    weight->set_learning_rate(0.004);
    const auto created = client->CreateSession(request);
    EXPECT_TRUE(created.ok()) << created.status();
    for (uint32_t rank = 0; rank < samples_.size(); ++rank) {
      client::SyncWorkerOptions worker;
      worker.session = session;
      worker.rank = rank;
      auto opened = client::SyncWorker::Open(client, worker);
      EXPECT_TRUE(opened.ok()) << opened.status();
      if (opened.ok()) workers_.push_back(*std::move(opened));
    }
  }

  Trajectory Run() {
    Trajectory trajectory;
    if (workers_.size() != samples_.size()) return trajectory;
    std::vector<float> weights(kFeatures);
    for (size_t k = 0; k < kFeatures; ++k) weights[k] = 0.3f - 0.07f * static_cast<float>(k);
    Learned learned = TakeStep([&](size_t rank, std::vector<client::StepLayer>* layers) {
      layers->push_back({"activation", Tensor(Part(batch_.x, rank, kFeatures))});
      // All ranks have the same weights: one of them gives them.
      if (rank == 0) layers->push_back({"weight", Tensor(weights)});
    });
    trajectory.learned.push_back(learned);
    for (int step = 1; step <= kTrainingSteps && !testing::Test::HasFailure(); ++step) {
      batch_ = MakeBatch(static_cast<uint64_t>(step));
      std::vector<RankGradients> gradients;
      std::vector<double> weight_gradients(kFeatures);
      double loss = 0;
      for (size_t rank = 0; rank < samples_.size(); ++rank) {
        gradients.push_back(Backward(learned, weights, Part(batch_.x, rank, kFeatures), Part(batch_.y, rank, 1)));
        gradients.back().weight_scale *= LsqGradFactor(kFeatures, kGreatestWeight);
        for (size_t k = 0; k < kFeatures; ++k) weight_gradients[k] += gradients.back().weights[k];
        loss += gradients.back().loss;
      }
      learned = TakeStep([&](size_t rank, std::vector<client::StepLayer>* layers) {
        const RankGradients& mine = gradients[rank];
        layers->push_back(
            {"activation", client::StepGradients{.scale = absl::MakeConstSpan(&mine.activation_scale, 1),
                                                 .zero_point = absl::MakeConstSpan(&mine.activation_zero_point, 1),
                                                 .elements = samples_[rank] * kFeatures}});
        layers->push_back({"weight", client::StepGradients{.scale = absl::MakeConstSpan(&mine.weight_scale, 1),
                                                           .elements = kFeatures}});
      });
      for (size_t k = 0; k < kFeatures; ++k) {
        weights[k] -= kLearningRate * static_cast<float>(weight_gradients[k] / kBatch);
      }
      trajectory.learned.push_back(learned);
      trajectory.loss.push_back(loss / kBatch);
    }
    return trajectory;
  }

 private:
  static v1::LearnedOptions* AddRule(const std::string& layer, bool is_signed, v1::CreateSessionRequest* request) {
    v1::LayerRule* const rule = request->mutable_config()->add_rules();
    rule->set_pattern(layer);
    rule->mutable_quant_spec()->set_type(is_signed ? v1::QUANT_TYPE_INT4 : v1::QUANT_TYPE_UINT4);
    rule->mutable_quant_spec()->set_scheme(is_signed ? v1::QUANT_SCHEME_SYMMETRIC : v1::QUANT_SCHEME_AFFINE);
    rule->mutable_observer()->set_kind(v1::OBSERVER_KIND_LEARNED);
    return rule->mutable_observer()->mutable_learned();
  }

  // A rank's part of what has `width` numbers a sample.
  absl::Span<const float> Part(const std::vector<float>& all, size_t rank, size_t width) const {
    const size_t first =
        std::accumulate(samples_.begin(), samples_.begin() + static_cast<std::ptrdiff_t>(rank), size_t{0});
    return absl::MakeConstSpan(all).subspan(first * width, samples_[rank] * width);
  }

  TensorView Tensor(absl::Span<const float> values) {
    TensorView tensor;
    tensor.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
    shapes_.push_back({values.size()});
    tensor.shape = shapes_.back();
    return tensor;
  }

  // All ranks take a step together; what they are told is the same.
  template <typename MakeLayers>
  Learned TakeStep(const MakeLayers& make_layers) {
    std::vector<Learned> told(samples_.size());
    std::vector<std::vector<client::StepLayer>> layers(samples_.size());
    for (size_t rank = 0; rank < samples_.size(); ++rank) make_layers(rank, &layers[rank]);
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < samples_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        client::StepOptions options;
        options.gradient_weight = static_cast<double>(samples_[rank]);
        const auto result = workers_[rank]->Step(layers[rank], options);
        ASSERT_TRUE(result.ok()) << result.status();
        const client::StepLayerResult& activation = result->layers[0];
        told[rank] = {activation.scale[0],
                      activation.learned_zero_point.empty() ? static_cast<float>(activation.zero_point[0])
                                                            : activation.learned_zero_point[0],
                      result->layers.size() > 1 ? result->layers[1].scale[0] : 0};
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Learned& other : told) {
      EXPECT_EQ(other.activation_scale, told[0].activation_scale);
      EXPECT_EQ(other.activation_zero_point, told[0].activation_zero_point);
      EXPECT_TRUE(other.weight_scale == told[0].weight_scale || other.weight_scale == 0);
    }
    return told[0];
  }

  const std::vector<size_t> samples_;
  Batch batch_ = MakeBatch(0);
  std::deque<std::vector<uint64_t>> shapes_;
  std::vector<std::unique_ptr<client::SyncWorker>> workers_;
};

TEST(LearnedRanksTest, FourRanksLearnWhatOneProcessLearns) {
  const Server server;
  const Trajectory whole = Training(server.address(), "one", {kBatch}).Run();
  const Trajectory split = Training(server.address(), "four", {5, 3, 4, 4}).Run();
  ASSERT_EQ(split.learned.size(), kTrainingSteps + 1u);
  ASSERT_EQ(whole.learned.size(), split.learned.size());
  // Gradients are the same but for rounding: four sums added are not one sum, and each tensor's gradients are float32.
  // That moves a step's gradient by its last bit, 2^-24 of it, and parameters by less; where training follows its own
  // path, as here, the bits add up. Sixteen of them are allowed; one was seen in all steps.
  const auto tolerance = [](float value) { return 0x1p-20 * std::abs(double{value}); };
  for (size_t step = 0; step < whole.learned.size(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const Learned& one = whole.learned[step];
    const Learned& four = split.learned[step];
    EXPECT_NEAR(four.activation_scale, one.activation_scale, tolerance(one.activation_scale));
    EXPECT_NEAR(four.activation_zero_point, one.activation_zero_point, tolerance(one.activation_zero_point));
    EXPECT_NEAR(four.weight_scale, one.weight_scale, tolerance(one.weight_scale));
  }
  // They learned something.
  const Learned& begin = whole.learned.front();
  const Learned& end = whole.learned.back();
  EXPECT_GT(std::abs(end.activation_scale / begin.activation_scale - 1), 0.01);
  EXPECT_GT(std::abs(end.activation_zero_point - begin.activation_zero_point), 0.002);
  EXPECT_GT(std::abs(end.weight_scale / begin.weight_scale - 1), 0.01);
  EXPECT_LT(whole.loss.back(), whole.loss.front() / 4);
}

}  // namespace
}  // namespace calib::test
