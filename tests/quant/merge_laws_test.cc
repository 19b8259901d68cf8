#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "quant/layer_statistics.h"
#include "quant/observe.h"
#include "quant/packed_histogram.h"
#include "tests/support/random_tensors.h"

// The laws that let statistics be cut, reordered, repeated from parts and reduced across workers: each for random data,
// random parts and random trees.
namespace calib {
namespace {

using test::RandomTensor;
using test::Rng;

class MergeLawsTest : public testing::TestWithParam<uint64_t> {
 protected:
  Rng rng_{GetParam()};
  TensorObserver observer_;

  size_t Below(size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(rng_); }

  ObserverConfig RandomConfig() {
    ObserverConfig config;
    constexpr ObserverKind kKinds[] = {ObserverKind::kMinMax, ObserverKind::kHistogram, ObserverKind::kHistogram,
                                       ObserverKind::kLearned};
    config.kind = kKinds[Below(4)];
    config.mantissa_bits = 4 + static_cast<int>(Below(4));
    if (Below(2) == 0) config.channel_axis = static_cast<int>(Below(3)) - 3;
    return config;
  }

  // A tensor of up to a few thousand elements or of tens of thousands, sometimes of bfloat16 numbers alone, sometimes
  // with a dimension of zero.
  struct Tensor {
    std::vector<uint64_t> shape;
    std::vector<float> data;
  };
  Tensor RandomShapedTensor() {
    Tensor tensor;
    tensor.shape = {1 + Below(20), 1 + Below(9), 1 + Below(20)};
    if (Below(4) == 0) tensor.shape = {30 + Below(10), 7 + Below(3), 100 + Below(30)};
    if (Below(8) == 0) tensor.shape[Below(3)] = 0;
    tensor.data = RandomTensor(rng_, tensor.shape[0] * tensor.shape[1] * tensor.shape[2], Below(2) == 0);
    if (Below(3) == 0) {
      for (float& x : tensor.data) x = Bfloat16ToFloat32(static_cast<uint16_t>(Bfloat16Key(x)));
    }
    return tensor;
  }

  LayerStatistics Observe(const Tensor& tensor, const ObserverConfig& config, size_t begin, size_t end) {
    LayerStatistics statistics(config);
    const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(tensor.data.data() + begin),
                                          4 * (end - begin));
    EXPECT_TRUE(observer_.Observe({DataType::kFloat32, tensor.shape, begin, bytes}, &statistics).ok());
    return statistics;
  }
  LayerStatistics Observe(const Tensor& tensor, const ObserverConfig& config) {
    return Observe(tensor, config, 0, tensor.data.size());
  }

  // Statistics of random parts of a tensor, with empty ones among them.
  std::vector<LayerStatistics> Parts(const Tensor& tensor, const ObserverConfig& config) {
    std::vector<LayerStatistics> parts;
    size_t begin = 0;
    for (const size_t end : test::RandomSplit(rng_, tensor.data.size(), 1 + Below(12))) {
      parts.push_back(Observe(tensor, config, begin, end));
      begin = end;
      if (Below(4) == 0) parts.push_back(LayerStatistics(config));
    }
    return parts;
  }

  // Merges in a random order along a random binary tree.
  LayerStatistics MergeTree(std::vector<LayerStatistics> parts) {
    while (parts.size() > 1) {
      const size_t into = Below(parts.size());
      std::swap(parts[into], parts.back());
      const LayerStatistics from = parts.back();
      parts.pop_back();
      LayerStatistics& to = parts[Below(parts.size())];
      EXPECT_TRUE(to.CheckMerge(from).ok()) << to.CheckMerge(from);
      to.Merge(from);
    }
    return parts[0];
  }
};

TEST_P(MergeLawsTest, PartitionOrderAndTreeDoNotMatter) {
  const Tensor tensor = RandomShapedTensor();
  const ObserverConfig config = RandomConfig();
  const std::vector<LayerStatistics> parts = Parts(tensor, config);
  EXPECT_EQ(MergeTree(parts).channels(), Observe(tensor, config).channels());
}

TEST_P(MergeLawsTest, AssociativeAndCommutative) {
  const ObserverConfig config = RandomConfig();
  const Tensor tensor = RandomShapedTensor();
  std::vector<LayerStatistics> abc;
  for (int i = 0; i < 3; ++i) {
    Tensor other = tensor;
    other.data = RandomTensor(rng_, tensor.data.size());
    abc.push_back(Observe(other, config));
  }
  LayerStatistics ab = abc[0];
  ab.Merge(abc[1]);
  LayerStatistics ba = abc[1];
  ba.Merge(abc[0]);
  EXPECT_EQ(ab.channels(), ba.channels());
  LayerStatistics left = ab;
  left.Merge(abc[2]);
  LayerStatistics bc = abc[1];
  bc.Merge(abc[2]);
  LayerStatistics right = abc[0];
  right.Merge(bc);
  EXPECT_EQ(left.channels(), right.channels());
}

TEST_P(MergeLawsTest, NothingIsTheIdentity) {
  const ObserverConfig config = RandomConfig();
  const Tensor tensor = RandomShapedTensor();
  const LayerStatistics statistics = Observe(tensor, config);
  LayerStatistics left = statistics;
  left.Merge(LayerStatistics(config));
  EXPECT_EQ(left.channels(), statistics.channels());
  LayerStatistics right(config);
  right.Merge(statistics);
  EXPECT_EQ(right.channels(), statistics.channels());
  LayerStatistics empty_channels(config);
  ASSERT_TRUE(empty_channels.SetChannelCount(statistics.channels().size()).ok());
  empty_channels.Merge(statistics);
  EXPECT_EQ(empty_channels.channels(), statistics.channels());
}

TEST_P(MergeLawsTest, CoarseningCommutesWithMergingAndObserving) {
  ObserverConfig fine = RandomConfig();
  fine.kind = ObserverKind::kHistogram;
  ObserverConfig coarse = fine;
  coarse.mantissa_bits = 4 + static_cast<int>(Below(fine.mantissa_bits - 3));
  const Tensor tensor = RandomShapedTensor();
  const LayerStatistics expected = Observe(tensor, coarse);

  // Parts of any resolution that is fine enough, into a coarse one.
  LayerStatistics mixed(coarse);
  size_t begin = 0;
  for (const size_t end : test::RandomSplit(rng_, tensor.data.size(), 5)) {
    ObserverConfig between = coarse;
    between.mantissa_bits = coarse.mantissa_bits + static_cast<int>(Below(8 - coarse.mantissa_bits));
    const LayerStatistics part = Observe(tensor, between, begin, end);
    ASSERT_TRUE(mixed.CheckMerge(part).ok());
    mixed.Merge(part);
    begin = end;
  }
  EXPECT_EQ(mixed.channels(), expected.channels());

  // Merged, then coarsened, in one step and in two.
  const LayerStatistics merged = MergeTree(Parts(tensor, fine));
  const int between = coarse.mantissa_bits + static_cast<int>(Below(fine.mantissa_bits - coarse.mantissa_bits + 1));
  for (size_t i = 0; i < merged.channels().size(); ++i) {
    const Bfloat16Histogram& histogram = *merged.channels()[i].histogram;
    EXPECT_EQ(histogram.Coarsened(coarse.mantissa_bits), *expected.channels()[i].histogram);
    EXPECT_EQ(histogram.Coarsened(between).Coarsened(coarse.mantissa_bits), *expected.channels()[i].histogram);
  }
}

TEST_P(MergeLawsTest, PackingChangesNothing) {
  ObserverConfig config = RandomConfig();
  config.kind = ObserverKind::kHistogram;
  const Tensor tensor = RandomShapedTensor();
  const LayerStatistics whole = Observe(tensor, config);
  const ChannelStatistics expected = whole.empty() ? ChannelStatistics::Empty(config) : whole.channels()[0];
  Bfloat16Histogram sum(config.mantissa_bits);
  PackedHistogram packed;
  for (const LayerStatistics& part : Parts(tensor, config)) {
    if (part.empty()) continue;
    const ChannelStatistics& channel = part.channels()[0];
    Pack(*channel.histogram, &packed);
    ASSERT_TRUE(ValidatePacked(packed.view(), channel.range).ok()) << ValidatePacked(packed.view(), channel.range);
    AddPacked(packed.view(), &sum);
  }
  EXPECT_EQ(sum, *expected.histogram);
  PackedHistogram again;
  Pack(sum, &packed);
  Pack(*expected.histogram, &again);
  EXPECT_EQ(packed.page, again.page);
  EXPECT_EQ(packed.encoding, again.encoding);
  EXPECT_EQ(packed.sparse_pairs, again.sparse_pairs);
  EXPECT_EQ(packed.counts, again.counts);
}

TEST_P(MergeLawsTest, ChannelsMergeToTheTensor) {
  ObserverConfig config = RandomConfig();
  config.channel_axis = static_cast<int>(Below(3));
  ObserverConfig per_tensor = config;
  per_tensor.channel_axis.reset();
  const Tensor tensor = RandomShapedTensor();
  const absl::StatusOr<ChannelStatistics> merged = Observe(tensor, config).MergedChannels();
  ASSERT_TRUE(merged.ok());
  EXPECT_EQ(*merged, Observe(tensor, per_tensor).channels()[0]);
}

INSTANTIATE_TEST_SUITE_P(Seeds, MergeLawsTest, testing::Range<uint64_t>(1, 41));

TEST(MergeRefusalTest, SaysWhatDoesNotFitAndChangesNothing) {
  ObserverConfig config;
  LayerStatistics three(config), two(config), coarse({ObserverKind::kHistogram, std::nullopt, 4}),
      minmax({ObserverKind::kMinMax, std::nullopt, 7}), full(config);
  ASSERT_TRUE(three.SetChannelCount(3).ok());
  ASSERT_TRUE(two.SetChannelCount(2).ok());
  ASSERT_TRUE(coarse.SetChannelCount(3).ok());
  ASSERT_TRUE(minmax.SetChannelCount(3).ok());
  ASSERT_TRUE(full.SetChannelCount(3).ok());
  full.mutable_channels()[2].range.nan = std::numeric_limits<uint64_t>::max();
  three.mutable_channels()[2].range.nan = 1;
  EXPECT_EQ(three.SetChannelCount(4).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(three.CheckMerge(two).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(three.CheckMerge(coarse).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(three.CheckMerge(minmax).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(minmax.CheckMerge(three).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LayerStatistics(config).CheckMerge(coarse).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(three.CheckMerge(full).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(full.CheckMerge(three).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(coarse.CheckMerge(three).ok());
  three.mutable_channels()[0].range.nan = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(three.MergedChannels().status().code(), absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace calib
