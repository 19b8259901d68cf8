#include "quant/observe.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/random_tensors.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace calib {
namespace {

using test::RandomTensor;
using test::Rng;

constexpr uint64_t kMostObserved = std::numeric_limits<uint64_t>::max();

template <typename Element>
absl::Span<const uint8_t> Bytes(const std::vector<Element>& elements) {
  return {reinterpret_cast<const uint8_t*>(elements.data()), elements.size() * sizeof(Element)};
}

ObserverConfig Config(std::optional<int> axis = std::nullopt, int mantissa_bits = 7,
                      ObserverKind kind = ObserverKind::kHistogram) {
  return {kind, axis, mantissa_bits};
}

// Statistics by the definitions, one value after the other.
ChannelStatistics Expected(const std::vector<float>& values, const ObserverConfig& config) {
  ChannelStatistics expected;
  std::map<uint32_t, uint64_t> counts;
  bool lossless = true;
  for (const float x : values) {
    if (std::isnan(x)) {
      ++expected.range.nan;
    } else if (std::isinf(x)) {
      ++(x > 0 ? expected.range.positive_infinity : expected.range.negative_infinity);
    } else {
      ++expected.range.count;
      expected.range.min = std::min(expected.range.min, x + 0.0f);
      expected.range.max = std::max(expected.range.max, x + 0.0f);
      ++counts[Bfloat16Key(x) >> (7 - config.mantissa_bits)];
      lossless = lossless && (std::bit_cast<uint32_t>(x) << (9 + config.mantissa_bits)) == 0;
    }
  }
  if (config.kind == ObserverKind::kMinMax) return expected;
  expected.histogram.emplace(config.mantissa_bits);
  for (const auto& [key, count] : counts) expected.histogram->AddKey(key, count);
  if (!lossless) expected.histogram->MarkLossy();
  return expected;
}

TEST(ObserveTest, CountsAsDefinedAtEverySizeKindAndResolution) {
  Rng rng(1);
  TensorObserver observer;
  for (const size_t elements : {0, 1, 2, 63, 4095, 4096, 4097, 5000, 70000}) {
    for (const ObserverKind kind : {ObserverKind::kHistogram, ObserverKind::kMinMax}) {
      for (int mantissa_bits = 4; mantissa_bits <= 7; ++mantissa_bits) {
        const ObserverConfig config = Config(std::nullopt, mantissa_bits, kind);
        LayerStatistics statistics(config);
        const std::vector<float> tensor = RandomTensor(rng, elements);
        const uint64_t shape[] = {elements};
        ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, Bytes(tensor)}, &statistics).ok());
        ASSERT_EQ(statistics.channels().size(), 1u);
        EXPECT_EQ(statistics.channels()[0], Expected(tensor, config)) << elements << " " << mantissa_bits;
      }
    }
  }
}

// One kind of value alone, few and many (more than 4,096 go through the working table), since both ways of counting
// must leave nothing behind for the next call.
TEST(ObserveTest, EdgeValues) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float tiny = std::bit_cast<float>(1u);
  const std::vector<std::vector<float>> kinds = {{0.0f},
                                                 {-0.0f},
                                                 {0.0f, -0.0f},
                                                 {-1.0f},
                                                 {1.5f},
                                                 {tiny},
                                                 {-tiny},
                                                 {tiny, -tiny, 0},
                                                 {kInfinity},
                                                 {-kInfinity},
                                                 {std::numeric_limits<float>::quiet_NaN()},
                                                 {std::numeric_limits<float>::signaling_NaN(), 1},
                                                 {std::numeric_limits<float>::max()},
                                                 {std::numeric_limits<float>::lowest()},
                                                 {kInfinity, -0.0f},
                                                 {std::numeric_limits<float>::max(), tiny},
                                                 {std::numeric_limits<float>::lowest(), -tiny},
                                                 {std::bit_cast<float>(0x80010000u)},
                                                 {-kInfinity, kInfinity, -5}};
  TensorObserver observer;
  for (const std::vector<float>& kind : kinds) {
    for (const size_t elements : {1, 64, 4096, 4097, 9000}) {
      std::vector<float> tensor;
      for (size_t i = 0; i < elements; ++i) tensor.push_back(kind[i % kind.size()]);
      for (const int mantissa_bits : {4, 7}) {
        LayerStatistics statistics(Config(std::nullopt, mantissa_bits));
        const uint64_t shape[] = {elements};
        ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, Bytes(tensor)}, &statistics).ok());
        const ChannelStatistics& seen = statistics.channels()[0];
        EXPECT_EQ(seen, Expected(tensor, statistics.config())) << kind[0] << " x " << elements;
        EXPECT_FALSE(seen.range.count > 0 && seen.range.min == 0 && std::signbit(seen.range.min));
        EXPECT_FALSE(seen.range.count > 0 && seen.range.max == 0 && std::signbit(seen.range.max));
      }
    }
  }
}

TEST(ObserveTest, EveryHalfPrecisionNumberCountsAsItsFloat32) {
  std::vector<uint16_t> all(65536);
  std::iota(all.begin(), all.end(), uint16_t{0});
  const uint64_t shape[] = {all.size()};
  TensorObserver observer;
  for (const DataType type : {DataType::kFloat16, DataType::kBfloat16}) {
    std::vector<float> converted;
    for (const uint16_t bits : all) {
      converted.push_back(type == DataType::kFloat16 ? Float16ToFloat32(bits) : Bfloat16ToFloat32(bits));
    }
    LayerStatistics statistics(Config());
    ASSERT_TRUE(observer.Observe({type, shape, 0, Bytes(all)}, &statistics).ok());
    EXPECT_EQ(statistics.channels()[0], Expected(converted, Config()));
    EXPECT_EQ(statistics.channels()[0].histogram->lossless(), type == DataType::kBfloat16);
  }
}

TEST(Float16Test, ConvertsByItsDefinition) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const int mantissa = static_cast<int>(bits & 1023);
    const float value = Float16ToFloat32(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0);
      EXPECT_EQ(std::isinf(value), mantissa == 0);
    } else {
      const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(std::abs(value), magnitude) << bits;
    }
    EXPECT_EQ(std::signbit(value), bits >= 0x8000) << bits;
  }
}

// Per channel, along every axis, whole and in chunks that begin and end anywhere.
TEST(ObserveTest, ChannelsAlongAnyAxisInAnyChunks) {
  const std::vector<std::vector<uint64_t>> shapes = {{7},         {5, 3},       {300, 40},     {1, 1},    {2, 3, 4},
                                                     {6, 5, 700}, {3, 2, 5000}, {9, 33, 2, 3}, {4, 1, 6}, {9000, 2}};
  Rng rng(2);
  TensorObserver observer;
  for (const std::vector<uint64_t>& shape : shapes) {
    size_t elements = 1;
    for (const uint64_t size : shape) elements *= size;
    std::vector<float> tensor = RandomTensor(rng, elements);
    for (const DataType type : {DataType::kFloat32, DataType::kBfloat16}) {
      std::vector<uint16_t> halves;
      if (type == DataType::kBfloat16) {
        for (float& x : tensor) {
          halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16));
          x = Bfloat16ToFloat32(halves.back());
        }
      }
      const absl::Span<const uint8_t> bytes = type == DataType::kFloat32 ? Bytes(tensor) : Bytes(halves);
      for (int axis = 0; axis < static_cast<int>(shape.size()); ++axis) {
        size_t inner = 1;
        for (size_t i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
        std::vector<std::vector<float>> values(shape[axis]);
        for (size_t i = 0; i < elements; ++i) values[i / inner % shape[axis]].push_back(tensor[i]);
        const int names[] = {axis, axis - static_cast<int>(shape.size())};
        for (const size_t parts : {1, 2, 9}) {
          const ObserverConfig config = Config(names[parts % 2]);
          LayerStatistics statistics(config);
          uint64_t offset = 0;
          for (const size_t end : test::RandomSplit(rng, elements, parts)) {
            const size_t size = ElementSize(type);
            const TensorView part = {type, shape, offset, bytes.subspan(offset * size, (end - offset) * size)};
            ASSERT_TRUE(observer.Observe(part, &statistics).ok());
            offset = end;
          }
          ASSERT_EQ(statistics.channels().size(), shape[axis]);
          for (size_t c = 0; c < values.size(); ++c) {
            ASSERT_EQ(statistics.channels()[c], Expected(values[c], config)) << "axis " << axis << " channel " << c;
          }
        }
      }
    }
  }
}

TEST(ObserveTest, ScalarAndEmptyTensors) {
  TensorObserver observer;
  LayerStatistics statistics(Config());
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, {}, 0, Bytes(std::vector<float>{3})}, &statistics).ok());
  EXPECT_EQ(statistics.channels()[0].range.count, 1u);
  const uint64_t with_zero[] = {4, 0, 3};
  LayerStatistics per_channel(Config(2));
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, with_zero, 0, {}}, &per_channel).ok());
  EXPECT_EQ(per_channel.channels().size(), 3u);
  LayerStatistics no_channels(Config(1));
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, with_zero, 0, {}}, &no_channels).ok());
  EXPECT_TRUE(no_channels.empty());
}

TEST(ObserveTest, ErrorsChangeNothing) {
  TensorObserver observer;
  Rng rng(3);
  const std::vector<float> tensor = RandomTensor(rng, 24);
  const uint64_t shape[] = {2, 3, 4};
  LayerStatistics statistics(Config(1));
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, Bytes(tensor)}, &statistics).ok());
  statistics.mutable_channels()[2].range.nan = kMostObserved - statistics.channels()[2].range.count;
  const std::vector<ChannelStatistics> before = statistics.channels();

  const auto code = [&](absl::Span<const uint64_t> bad_shape, uint64_t offset, absl::Span<const uint8_t> data,
                        LayerStatistics* into) {
    return observer.Observe({DataType::kFloat32, bad_shape, offset, data}, into).code();
  };
  using absl::StatusCode;
  const absl::Span<const uint8_t> bytes = Bytes(tensor);
  EXPECT_EQ(code(shape, 0, bytes.first(95), &statistics), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(shape, 1, bytes, &statistics), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(shape, kMostObserved, bytes.first(4), &statistics), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({}, 0, bytes.first(4), &statistics), StatusCode::kInvalidArgument);
  const uint64_t flat[] = {24};
  EXPECT_EQ(code(flat, 0, bytes, &statistics), StatusCode::kInvalidArgument);
  const uint64_t huge[] = {uint64_t{1} << 32, 3, uint64_t{1} << 32};
  EXPECT_EQ(code(huge, 0, bytes, &statistics), StatusCode::kInvalidArgument);
  const uint64_t other_channels[] = {3, 4, 2};
  EXPECT_EQ(code(other_channels, 0, bytes, &statistics), StatusCode::kFailedPrecondition);
  // Channels 0 and 1 have room, channel 2 is full: nothing is added to any.
  EXPECT_EQ(code(shape, 0, bytes, &statistics), StatusCode::kOutOfRange);
  EXPECT_EQ(code(shape, 7, bytes.first(8), &statistics), StatusCode::kOutOfRange);
  EXPECT_EQ(statistics.channels(), before);
  EXPECT_EQ(code(shape, 0, bytes.first(32), &statistics), StatusCode::kOk);

  LayerStatistics untouched(Config(5));
  EXPECT_EQ(code(shape, 0, bytes, &untouched), StatusCode::kInvalidArgument);
  EXPECT_TRUE(untouched.empty());
}

TEST(ObserveTest, MemoryOfALayer) {
  TensorObserver observer;
  Rng rng(4);
  std::normal_distribution<float> gauss;
  std::vector<float> tensor(4096);
  for (float& x : tensor) x = std::max(0.0f, gauss(rng));
  const uint64_t shape[] = {tensor.size()};
  LayerStatistics histogram(Config());
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, Bytes(tensor)}, &histogram).ok());
  EXPECT_LE(histogram.MemoryBytes(), 48u << 10);
  LayerStatistics range(Config(std::nullopt, 7, ObserverKind::kMinMax));
  ASSERT_TRUE(observer.Observe({DataType::kFloat32, shape, 0, Bytes(tensor)}, &range).ok());
  EXPECT_LE(range.MemoryBytes(), 400u);
}

#if defined(__x86_64__)
// Frameworks let users set these modes on the very threads that observe.
TEST(ObserveTest, FlushToZeroModesChangeNothing) {
  std::vector<float> tensor;
  for (uint32_t bits = 1; bits < 0x00900000; bits += 4093) {
    tensor.push_back(std::bit_cast<float>(bits));
    tensor.push_back(std::bit_cast<float>(bits / 3 | 0x80000000));
  }
  for (const size_t elements : {size_t{100}, tensor.size()}) {
    const uint64_t shape[] = {elements};
    const TensorView view = {DataType::kFloat32, shape, 0, Bytes(tensor).first(4 * elements)};
    TensorObserver observer;
    LayerStatistics usual(Config());
    ASSERT_TRUE(observer.Observe(view, &usual).ok());
    LayerStatistics flushed(Config());
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);  // denormals are zero, flush to zero
    const bool ok = observer.Observe(view, &flushed).ok() && observer.Observe(view, &flushed).ok();
    _mm_setcsr(saved);
    ASSERT_TRUE(ok);
    LayerStatistics twice = usual;
    twice.Merge(usual);
    EXPECT_EQ(flushed.channels(), twice.channels());
    EXPECT_EQ(std::bit_cast<uint32_t>(usual.channels()[0].range.max),
              std::bit_cast<uint32_t>(flushed.channels()[0].range.max));
  }
}
#endif

}  // namespace
}  // namespace calib
