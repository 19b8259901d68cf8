#include "quant/learned_observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <string>
#include <vector>

#include "quant/calibrate.h"
#include "quant/learned.h"
#include "tests/quant/methods_test_util.h"

namespace calib {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

LearnedOptions Options(const QuantSpec& spec = test::MakeSpec("int8")) {
  LearnedOptions options;
  options.spec = spec;
  options.initial = DefaultLearnedInitial(spec.scheme);
  return options;
}

ObserverConfig Learned(const LearnedOptions& options = Options(), std::optional<int> axis = std::nullopt) {
  ObserverConfig config;
  config.kind = ObserverKind::kLearned;
  config.channel_axis = axis;
  config.learned = options;
  return config;
}

ObserverConfig Histogram(std::optional<int> axis = std::nullopt) {
  ObserverConfig config;
  config.channel_axis = axis;
  return config;
}

const std::vector<float> kValues = {-1.5f, 0.25f, 3, 1, -0.5f, 0.75f};

LayerStatistics Initialized(const LearnedOptions& options = Options(), std::optional<int> axis = std::nullopt) {
  LayerStatistics layer = test::ObserveLayer(kValues, {2, 3}, Learned(options, axis));
  EXPECT_EQ(InitializeLearned(&layer), absl::OkStatus());
  return layer;
}

TEST(LearnedObserverTest, WhichObserversTakeStepsAlone) {
  EXPECT_TRUE(NeedsSteps(ObserverKind::kLearned));
  EXPECT_FALSE(DependsOnOrder(ObserverKind::kLearned)) << "its statistics merge";
  for (const ObserverKind kind : {ObserverKind::kHistogram, ObserverKind::kMinMax, ObserverKind::kEma,
                                  ObserverKind::kReferenceHistogram, ObserverKind::kPassive}) {
    EXPECT_EQ(NeedsSteps(kind), DependsOnOrder(kind)) << ObserverKindName(kind);
  }
}

TEST(LearnedObserverTest, BeginsWhereAHistogramWouldBeCalibrated) {
  for (const bool affine : {false, true}) {
    for (const CalibrationMethod method :
         {CalibrationMethod::kMinMax, CalibrationMethod::kPercentile, CalibrationMethod::kMse,
          CalibrationMethod::kEntropy, CalibrationMethod::kLsq, CalibrationMethod::kLsqPlus}) {
      LearnedOptions options = Options(test::MakeSpec("int4", affine ? QuantScheme::kAffine : QuantScheme::kSymmetric));
      options.initial.method = method;
      if (!CheckLearnedOptions(options).ok()) continue;
      for (const bool channels : {false, true}) {
        const std::optional<int> axis = channels ? std::optional(1) : std::nullopt;
        const LayerStatistics layer = Initialized(options, axis);
        QuantSpec spec = options.spec;
        if (channels) spec.granularity = QuantGranularity::kPerChannel;
        const auto expected = Calibrate(test::ObserveLayer(kValues, {2, 3}, Histogram(axis)), options.initial, spec);
        ASSERT_TRUE(expected.ok()) << expected.status();
        EXPECT_EQ(LearnedQParams(layer), expected->params) << MethodName(method);
        EXPECT_THAT(expected->params, SizeIs(channels ? 3 : 1));
      }
    }
  }
}

TEST(LearnedObserverTest, ChannelsWithoutValuesBeginFromZeros) {
  LayerStatistics layer = test::ObserveLayer({1, NAN, -2, INFINITY}, {2, 2}, Learned(Options(), 1));
  ASSERT_EQ(InitializeLearned(&layer), absl::OkStatus());
  const std::vector<QParams> params = LearnedQParams(layer);
  ASSERT_THAT(params, SizeIs(2));
  EXPECT_FLOAT_EQ(params[0].scale, static_cast<float>(2 * 1.5 / std::sqrt(127.0)));
  EXPECT_EQ(params[1], (QParams{0x1p-23f, 0}));
}

TEST(LearnedObserverTest, NothingToBeginFrom) {
  LayerStatistics layer(Learned());
  EXPECT_FALSE(IsInitialized(layer));
  EXPECT_EQ(InitializeLearned(&layer).code(), absl::StatusCode::kFailedPrecondition);
  layer = test::ObserveLayer({NAN, INFINITY}, {2}, Learned());
  const std::vector<ChannelStatistics> before = layer.channels();
  EXPECT_EQ(InitializeLearned(&layer).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(IsInitialized(layer));
  EXPECT_EQ(layer.channels(), before);
  EXPECT_EQ(CheckGradients(layer, {{1, 1}}, 10).code(), absl::StatusCode::kFailedPrecondition);
  const auto calibrated = Calibrate(layer, {}, test::MakeSpec("int8"));
  EXPECT_EQ(calibrated.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(calibrated.status().message()), HasSubstr("learned"));
  EXPECT_EQ(CheckCalibrate(layer, {}, test::MakeSpec("int8")), CalibrateError::kLayerEmpty);
  EXPECT_FALSE(IsInitialized(test::ObserveValues({1}))) << "a histogram";
}

// Values that came before the layer was initialized are not enough: it begins when it is told to.
TEST(LearnedObserverTest, CollectedIsNotInitialized) {
  const LayerStatistics layer = test::ObserveLayer(kValues, {6}, Learned());
  EXPECT_FALSE(IsInitialized(layer));
  EXPECT_EQ(CheckCalibrate(layer, {}, test::MakeSpec("int8")), CalibrateError::kLayerEmpty);
}

TEST(LearnedObserverTest, CalibrateAnswersWithWhatIsLearned) {
  LearnedOptions options = Options(test::MakeSpec("uint4", QuantScheme::kAffine));
  options.plain_gradients = true;
  options.learning_rate = 1;
  LayerStatistics layer = Initialized(options, 1);
  ApplyGradients(&layer, {{-0.5, -1.75}, {0.0, 0.0}, {-1.0, 2.0}}, 0);
  const std::vector<QParams> learned = LearnedQParams(layer);
  // Whatever is asked for, but for what can't be asked.
  const auto result = Calibrate(layer, {.method = CalibrationMethod::kPercentile}, test::MakeSpec("int8"));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->params, learned);
  QuantSpec spec = options.spec;
  spec.granularity = QuantGranularity::kPerChannel;
  EXPECT_EQ(result->spec, spec);
  EXPECT_EQ(result->rules, *ResolveSpec(spec));
  EXPECT_EQ(result->range.min, -1.5f);
  EXPECT_EQ(result->range.max, 3);
  ASSERT_THAT(result->clip, SizeIs(3));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_DOUBLE_EQ(result->clip[i].min, double{learned[i].scale} * static_cast<double>(0 - learned[i].zero_point));
    EXPECT_DOUBLE_EQ(result->clip[i].max, double{learned[i].scale} * static_cast<double>(15 - learned[i].zero_point));
  }
  // These are few enough bits for the histogram to be exact.
  ASSERT_TRUE(result->error.has_value());
  double squared_error = 0;
  for (size_t i = 0; i < 3; ++i) {
    squared_error += test::Measure({kValues[i], kValues[i + 3]}, result->rules, learned[i]).squared_error;
  }
  EXPECT_NEAR(result->error->mse(), squared_error / 6, 1e-12);
  EXPECT_EQ(CheckCalibrate(layer, {.percentile = 7}, test::MakeSpec("int8")), CalibrateError::kNone);
  EXPECT_EQ(CheckCalibrate(layer, {.method = CalibrationMethod::kPercentile, .percentile = 0}, {}),
            CalibrateError::kMethodInvalid);
}

TEST(LearnedObserverTest, GradientsAreCheckedWhole) {
  const LayerStatistics layer = Initialized(Options(), 1);
  const auto code = [&](const std::vector<LearnedGradient>& gradients, uint64_t elements = 6) {
    return CheckGradients(layer, gradients, elements).code();
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({{1, 1}, {2, 2}, {3, 3}}), absl::StatusCode::kOk);
  EXPECT_EQ(code({{1, 1}, {2, 2}}), kBad);
  EXPECT_EQ(code({}), kBad);
  EXPECT_EQ(code({{1, 1}, {2, 2}, {3, 3}, {4, 4}}), kBad);
  for (const double bad : {1e60, -1e60, double{INFINITY}, double{NAN}}) {
    EXPECT_EQ(code({{1, 1}, {2, 2}, {bad, 0}}), kBad) << bad;
    EXPECT_EQ(code({{0, bad}, {2, 2}, {3, 3}}), kBad) << bad;
  }
  EXPECT_EQ(code({{1, 1}, {2, 2}, {3, 3}}, 0), kBad) << "no elements";
  LearnedOptions plain = Options();
  plain.plain_gradients = true;
  EXPECT_EQ(CheckGradients(Initialized(plain), {{1, 1}}, 0), absl::OkStatus());
}

TEST(LearnedObserverTest, GradientsAreScaledAsLsqDoes) {
  LearnedOptions options = Options(test::MakeSpec("int8"));
  LayerStatistics layer = Initialized(options, 1);
  const LayerStatistics before = layer;
  const std::vector<LearnedGradient> gradients = {{1, 0}, {-2, 0}, {0, 0}};
  ASSERT_EQ(CheckGradients(layer, gradients, 1000), absl::OkStatus());
  ApplyGradients(&layer, gradients, 1000);
  for (size_t i = 0; i < 3; ++i) {
    const LearnedState &old = *before.channels()[i].learned, &now = *layer.channels()[i].learned;
    EXPECT_FLOAT_EQ(now.scale, old.scale - 0.01f * static_cast<float>(LsqGradFactor(1000, 127) * gradients[i].scale));
    EXPECT_EQ(now.steps, 1u);
    EXPECT_EQ(layer.channels()[i].histogram, before.channels()[i].histogram);
  }
  options.plain_gradients = true;
  LayerStatistics plain = Initialized(options, 1);
  ApplyGradients(&plain, gradients, 1000);
  EXPECT_FLOAT_EQ(plain.channels()[1].learned->scale, before.channels()[1].learned->scale + 0.02f);
}

TEST(LearnedObserverTest, StatisticsMergeAndWhatIsLearnedStays) {
  LayerStatistics layer = Initialized();
  ApplyGradients(&layer, {{5, 0}}, 6);
  const LearnedState learned = *layer.channels()[0].learned;
  const LayerStatistics more = test::ObserveLayer({7, 8}, {2}, Learned());
  ASSERT_EQ(layer.CheckMerge(more), absl::OkStatus());
  layer.Merge(more);
  EXPECT_EQ(*layer.channels()[0].learned, learned);
  EXPECT_EQ(layer.channels()[0].range.count, 8u);
  EXPECT_EQ(layer.channels()[0].histogram->total(), 8u);
  LayerStatistics other = test::ObserveLayer({7, 8}, {2}, Learned());
  EXPECT_EQ(other.CheckMerge(layer).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LayerStatistics(Learned()).CheckMerge(layer).code(), absl::StatusCode::kInvalidArgument);
  const auto merged = Initialized(Options(), 1).MergedChannels();
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->range.count, 6u);
}

// What an observer takes when nothing is learned is what it took before there were learned ones, but for two pointers.
TEST(LearnedObserverTest, MemoryIsThatOfLearnedLayersAlone) {
  const LayerStatistics layer = Initialized();
  LayerStatistics collected = test::ObserveLayer(kValues, {2, 3}, Histogram());
  EXPECT_EQ(layer.MemoryBytes(), collected.MemoryBytes() + sizeof(LearnedOptions) + sizeof(LearnedState));
}

// Four ranks learn the int4 scale of a layer: gradients of the squared error lead from LSQ's beginning to about the
// best scale that there is. (Not quite: the straight-through estimator's gradient is another one than the error's.)
TEST(LearnedObserverTest, RanksLearnAScale) {
  std::vector<float> values = test::GoldenLayers().front().values;
  values.resize(20000);
  LearnedOptions options = Options(test::MakeSpec("int4"));
  options.optimizer = LearnedOptimizer::kAdam;
  options.learning_rate = 0.01;
  LayerStatistics layer = test::ObserveLayer(values, {values.size()}, Learned(options));
  ASSERT_EQ(InitializeLearned(&layer), absl::OkStatus());
  const auto mse = [&](const LayerStatistics& statistics, const MethodSpec& method) {
    return Calibrate(statistics, method, options.spec)->error->mse();
  };
  const double initial = mse(layer, {});
  constexpr size_t kRanks = 4;
  const size_t part = values.size() / kRanks;
  std::vector<float> y(part), dy(part), dx(part);
  for (int step = 0; step < 300; ++step) {
    LearnedParams params{
        {&layer.channels()[0].learned->scale, 1}, {&layer.channels()[0].learned->zero_point, 1}, -8, 7};
    LearnedGradient mean;
    for (size_t rank = 0; rank < kRanks; ++rank) {
      const absl::Span<const float> x = absl::MakeConstSpan(values).subspan(rank * part, part);
      ASSERT_EQ(FakeQuantize(params, {.inner = part}, x, absl::MakeSpan(y)), absl::OkStatus());
      for (size_t i = 0; i < part; ++i) dy[i] = 2 * (y[i] - x[i]);
      double scale = 0, zero_point = 0;
      ASSERT_EQ(
          FakeQuantizeGradients(params, {.inner = part}, 1, x, dy, absl::MakeSpan(dx), {&scale, 1}, {&zero_point, 1}),
          absl::OkStatus());
      mean.scale += scale / kRanks;
    }
    ASSERT_EQ(CheckGradients(layer, {mean}, part * kRanks), absl::OkStatus());
    ApplyGradients(&layer, {mean}, part * kRanks);
  }
  const double best = mse(test::ObserveValues(values), {.method = CalibrationMethod::kMse});
  EXPECT_GT(initial, best * 1.2) << "nothing to learn";
  EXPECT_LT(mse(layer, {}), best * 1.02);
}

}  // namespace
}  // namespace calib
