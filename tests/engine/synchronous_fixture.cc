#include "tests/engine/synchronous_fixture.h"

#include "proto/codec/statistics_codec.h"
#include "quant/reference_grid.h"

namespace calib::server::test {
namespace {

ObserverConfig Reference(ReferenceRule rule) {
  return {.kind = ObserverKind::kReferenceHistogram, .reference = {rule, 65, 1 << 16}};
}

const std::vector<std::pair<std::string, ObserverConfig>>& Observers() {
  static const auto* const observers = new std::vector<std::pair<std::string, ObserverConfig>>{
      {"minmax", kMinMaxConfig},
      {"ema", kEmaConfig},
      {"ema.channels", kEmaChannelsConfig},
      {"histogram", kHistogramConfig},
      {"megengine", Reference(ReferenceRule::kMegengine)},
      {"mxnet", Reference(ReferenceRule::kMxnet)},
      {"learned", {.kind = ObserverKind::kLearned, .learned = LearnedOptions{.learning_rate = 0.5}}},
      {"replicated",
       {.kind = ObserverKind::kLearned, .learned = LearnedOptions{.learning_rate = 0.5, .replicated = true}}}};
  return *observers;
}

TensorView View(const std::vector<float>& values) {
  TensorView view;
  view.data = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float));
  return view;
}

}  // namespace

const std::vector<std::string>& SynchronousLayers() {
  static const auto* const names = [] {
    auto* result = new std::vector<std::string>;
    for (const auto& [name, observer] : Observers()) result->push_back(name);
    return result;
  }();
  return *names;
}

SynchronousFixture::SynchronousFixture() {
  options_.clock = &clock_;
  Start();
}

std::shared_ptr<Session> SynchronousFixture::CreateSynchronous(const SynchronousOptions& options,
                                                               const std::string& name) {
  std::vector<ObserverRules::Rule> rules;
  for (const auto& [pattern, observer] : Observers()) rules.push_back({pattern, observer, QuantSpec()});
  rules.push_back({"passive", kPassiveConfig, QuantSpec()});
  SessionConfig config;
  config.rules = ObserverRules(std::move(rules));
  config.synchronous = options;
  const auto made = engine_->CreateSession(name, config);
  EXPECT_TRUE(made.ok()) << made.status();
  return made->session;
}

absl::StatusOr<TestStream> SynchronousFixture::TryOpenRank(uint32_t rank, const std::string& worker,
                                                           const std::string& session) {
  TestStream result{std::make_shared<TestListener>(), nullptr};
  v1::Open open;
  open.set_session(session);
  open.set_worker_id(worker.empty() ? absl::StrCat("rank-", rank) : worker);
  open.set_rank(rank);
  absl::StatusOr<std::unique_ptr<ObserveStream>> stream = ObserveStream::Open(engine_.get(), open, result.listener);
  if (!stream.ok()) return stream.status();
  result.stream = *std::move(stream);
  std::vector<std::string> names = SynchronousLayers();
  names.push_back("passive");
  const absl::Status registered = result.Send(RegisterRequest(0, names));
  EXPECT_TRUE(registered.ok()) << registered;
  return result;
}

TestStream SynchronousFixture::OpenRank(uint32_t rank, const std::string& worker, const std::string& session) {
  absl::StatusOr<TestStream> stream = TryOpenRank(rank, worker, session);
  EXPECT_TRUE(stream.ok()) << stream.status();
  return *std::move(stream);
}

v1::ObserveRequest SynchronousFixture::Contribution(uint64_t epoch, uint64_t step, const RankStep& observed) {
  v1::ObserveRequest request;
  v1::StepContribution* const contribution = request.mutable_step_contribution();
  contribution->set_world_epoch(epoch);
  contribution->set_step(step);
  StatisticsWriter writer;
  for (const auto& [handle, values] : observed.tensors) {
    ObserverConfig config = Observers()[handle].second;
    if (DependsOnOrder(config.kind)) config.kind = ObserverKind::kMinMax;
    if (config.kind == ObserverKind::kLearned) config.kind = ObserverKind::kHistogram;
    // Channels are the rows of a matrix with two.
    const std::vector<uint64_t> shape =
        config.channel_axis.has_value() ? std::vector<uint64_t>{2, values.size() / 2} : std::vector<uint64_t>{};
    writer.Add(handle, Observe(config, values, shape), contribution->mutable_statistics());
  }
  return request;
}

v1::ObserveRequest SynchronousFixture::GradientContribution(uint64_t epoch, uint64_t step, uint32_t handle,
                                                            const std::vector<double>& scale, uint64_t elements,
                                                            double weight) {
  v1::ObserveRequest request;
  v1::StepContribution* const contribution = request.mutable_step_contribution();
  contribution->set_world_epoch(epoch);
  contribution->set_step(step);
  v1::GradientBatch* const gradients = contribution->mutable_gradients();
  gradients->add_layer(handle);
  if (scale.size() != 1) gradients->add_channels(static_cast<uint32_t>(scale.size()));
  gradients->add_elements(elements);
  for (const double gradient : scale) gradients->add_scale(gradient);
  gradients->set_weight(weight);
  return request;
}

v1::ObserveRequest SynchronousFixture::Counts(const v1::StepGrids& grids, const RankStep& observed) {
  v1::ObserveRequest request;
  v1::StepCounts* const counts = request.mutable_step_counts();
  counts->set_world_epoch(grids.world_epoch());
  counts->set_step(grids.step());
  int place = 0;
  for (const auto& [handle, values] : observed.tensors) {
    const ObserverConfig& config = Observers()[handle].second;
    if (config.kind != ObserverKind::kReferenceHistogram) continue;
    v1::StepCount* const count = counts->add_count();
    *count->mutable_grid() = grids.grid(place++);
    if (count->grid().bins() == 0) continue;
    std::vector<uint64_t> numbers;
    const ReferenceGrid grid{count->grid().low(), count->grid().high(), count->grid().bins()};
    const absl::Status counted = CountOnGrid(config.reference.rule, grid, View(values), &numbers);
    EXPECT_TRUE(counted.ok()) << counted;
    for (const uint64_t number : numbers) count->add_count(number);
  }
  return request;
}

std::vector<v1::ObserveResponse> SynchronousFixture::Told(TestStream* stream) {
  std::vector<v1::ObserveResponse> told;
  for (const auto& message : stream->listener->TakeSteps()) told.push_back(*message);
  return told;
}

void SynchronousFixture::Expire(Session* session) { session->ExpireSteps(clock_.Elapsed()).notices.Deliver(); }

}  // namespace calib::server::test
