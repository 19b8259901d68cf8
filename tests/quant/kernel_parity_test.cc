#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "quant/kernels/kernel.h"
#include "tests/support/random_tensors.h"

#if defined(CALIB_HAVE_SIMDE)
#include "tests/quant/emulated_avx512.h"
#endif

namespace calib {

bool operator==(const KernelResult& a, const KernelResult& b) {
  return std::bit_cast<uint32_t>(a.min) == std::bit_cast<uint32_t>(b.min) &&
         std::bit_cast<uint32_t>(a.max) == std::bit_cast<uint32_t>(b.max) && a.nan == b.nan &&
         a.positive_infinity == b.positive_infinity && a.negative_infinity == b.negative_infinity &&
         a.finite_bits == b.finite_bits && a.least_magnitude == b.least_magnitude;
}

std::ostream& operator<<(std::ostream& out, const KernelResult& r) {
  return out << "min " << r.min << " max " << r.max << " nan " << r.nan << " inf +" << r.positive_infinity << " -"
             << r.negative_infinity << std::hex << " bits " << r.finite_bits << " least " << r.least_magnitude;
}

std::ostream& operator<<(std::ostream& out, const Kernel& kernel) { return out << kernel.name; }

namespace {

using test::Rng;

constexpr DataType kTypes[] = {DataType::kFloat32, DataType::kFloat16, DataType::kBfloat16};
// Elements of the widest vector there is.
constexpr size_t kMostLanes = 16;
constexpr size_t kMisalignments = 64;

uint32_t BitsAt(DataType type, const uint8_t* data, size_t i) {
  if (type == DataType::kFloat32) {
    uint32_t bits;
    std::memcpy(&bits, data + 4 * i, 4);
    return bits;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return std::bit_cast<uint32_t>(type == DataType::kFloat16 ? Float16ToFloat32(bits) : Bfloat16ToFloat32(bits));
}

struct Outcome {
  KernelResult result;
  std::map<uint32_t, uint64_t> counts;  // by key, of the finite values
};

// What a kernel must see, by the definitions alone.
Outcome Oracle(DataType type, const uint8_t* data, size_t elements) {
  Outcome expected = {};
  expected.result.least_magnitude = 0x7fffffff;
  std::set<float> finite;
  for (size_t i = 0; i < elements; ++i) {
    const uint32_t bits = BitsAt(type, data, i);
    const float value = std::bit_cast<float>(bits);
    if (std::isnan(value)) {
      ++expected.result.nan;
    } else if (std::isinf(value)) {
      ++(value > 0 ? expected.result.positive_infinity : expected.result.negative_infinity);
    } else {
      finite.insert(value == 0 ? 0.0f : value);
      ++expected.counts[bits >> 16 == 0x8000 ? 0 : bits >> 16];
      expected.result.finite_bits |= bits;
      if (value != 0) {
        expected.result.least_magnitude =
            std::min(expected.result.least_magnitude, std::bit_cast<uint32_t>(std::abs(value)));
      }
    }
  }
  expected.result.min = finite.empty() ? std::numeric_limits<float>::infinity() : *finite.begin();
  expected.result.max = finite.empty() ? -std::numeric_limits<float>::infinity() : *finite.rbegin();
  return expected;
}

// Counts of the finite values; leaves the table all zero again. `data` tells which keys can hold anything.
std::map<uint32_t, uint64_t> Collect(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters) {
  std::map<uint32_t, uint64_t> counts;
  for (size_t i = 0; i < elements; ++i) {
    const uint32_t key = BitsAt(type, data, i) >> 16;
    for (auto& copy : counters->counts) {
      if ((key & 0x7f80) != 0x7f80 && copy[key] != 0) counts[key == 0x8000 ? 0 : key] += copy[key];
      copy[key] = 0;
    }
  }
  // A NaN may have been made quiet on the way, which changes its key.
  for (auto& copy : counters->counts) {
    for (const size_t page : {255, 511}) std::fill_n(copy + 128 * page, 128, 0);
  }
  return counts;
}

bool AllZero(const KeyCounters& counters) {
  for (const auto& copy : counters.counts) {
    if (std::any_of(std::begin(copy), std::end(copy), [](uint32_t count) { return count != 0; })) return false;
  }
  return true;
}

// Elements of a type with everything in them, in a buffer of exactly their size at any misalignment, so that reading
// beyond them is caught.
class Elements {
 public:
  Elements(Rng& rng, DataType type, size_t elements, size_t misalignment) : size_(elements * ElementSize(type)) {
    buffer_ = std::make_unique<uint8_t[]>(size_ + misalignment);
    begin_ = buffer_.get() + misalignment;
    const std::vector<float> values = test::RandomTensor(rng, elements, /*specials=*/rng() % 4 != 0);
    for (size_t i = 0; i < elements; ++i) {
      uint32_t bits = std::bit_cast<uint32_t>(values[i]);
      if (type == DataType::kFloat32) {
        std::memcpy(begin_ + 4 * i, &bits, 4);
      } else {
        // Half of the binary16 numbers at random over all of them: NaN payloads, subnormals and infinities too.
        uint16_t half = static_cast<uint16_t>(bits >> 16);
        if (type == DataType::kFloat16 && rng() % 2 == 0) half = static_cast<uint16_t>(rng());
        if (type == DataType::kFloat16 && rng() % 16 == 0) half = static_cast<uint16_t>((rng() & 0x8000) | 0x7c00);
        std::memcpy(begin_ + 2 * i, &half, 2);
      }
    }
  }
  const uint8_t* begin() const { return begin_; }

 private:
  size_t size_;
  std::unique_ptr<uint8_t[]> buffer_;
  uint8_t* begin_;
};

std::vector<Kernel> KernelsUnderTest() {
  std::vector<Kernel> kernels(AllKernels().begin(), AllKernels().end());
#if defined(CALIB_HAVE_SIMDE)
  kernels.push_back(kernels::kEmulatedAvx512Kernel);
#endif
  return kernels;
}

class KernelParityTest : public testing::TestWithParam<Kernel> {
 protected:
  void SetUp() override {
    if (!GetParam().supported()) GTEST_SKIP() << "this CPU has no " << std::string(GetParam().name);
  }

  // Runs the kernel both with and without counting and compares with the oracle.
  void Check(DataType type, const uint8_t* data, size_t elements) {
    const Outcome expected = Oracle(type, data, elements);
    const KernelResult result = GetParam().histogram(type, data, elements, counters_.get());
    ASSERT_EQ(result, expected.result);
    ASSERT_EQ(Collect(type, data, elements, counters_.get()), expected.counts);
    ASSERT_EQ(GetParam().range(type, data, elements), expected.result);
    ASSERT_EQ(AllKernels()[0].range(type, data, elements), expected.result) << "scalar";
  }

  std::unique_ptr<KeyCounters> counters_ = std::make_unique<KeyCounters>();
};

TEST_P(KernelParityTest, EveryLengthToFourVectorsAtEveryMisalignment) {
  Rng rng(1);
  for (const DataType type : kTypes) {
    for (size_t elements = 0; elements <= 4 * kMostLanes + 1; ++elements) {
      for (size_t misalignment = 0; misalignment < kMisalignments; ++misalignment) {
        const Elements values(rng, type, elements, misalignment);
        ASSERT_NO_FATAL_FAILURE(Check(type, values.begin(), elements))
            << DataTypeName(type) << " " << elements << " elements at " << misalignment;
      }
    }
  }
  EXPECT_TRUE(AllZero(*counters_));
}

TEST_P(KernelParityTest, LongTensors) {
  Rng rng(2);
  for (const DataType type : kTypes) {
    for (const size_t elements : {1000, 4099, 65536, 200003}) {
      const Elements values(rng, type, elements, rng() % kMisalignments);
      ASSERT_NO_FATAL_FAILURE(Check(type, values.begin(), elements)) << DataTypeName(type) << " " << elements;
    }
  }
  EXPECT_TRUE(AllZero(*counters_));
}

// One value of each awkward kind at every place among others of one kind.
TEST_P(KernelParityTest, EveryAwkwardValueAtEveryPlace) {
  const uint32_t awkward[] = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x8000ffff, 0x00800000,
                              0x807fffff, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7f800001,
                              0xff800001, 0x7fc00000, 0xffc00000, 0x7fffffff, 0xffffffff, 0x7fa12345};
  const uint32_t fillers[] = {0x3fc00001, 0xbfc00000, 0x00000000, 0x80000000, 0x7fc00000, 0xff800000};
  constexpr size_t kElements = 5 * kMostLanes;
  std::vector<uint32_t> tensor(kElements);
  for (const uint32_t filler : fillers) {
    for (const uint32_t value : awkward) {
      for (size_t place = 0; place < kElements; ++place) {
        std::fill(tensor.begin(), tensor.end(), filler);
        tensor[place] = value;
        ASSERT_NO_FATAL_FAILURE(Check(DataType::kFloat32, reinterpret_cast<const uint8_t*>(tensor.data()), kElements))
            << std::hex << value << " among " << filler << std::dec << " at " << place;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, KernelParityTest, testing::ValuesIn(KernelsUnderTest()), [](const auto& info) {
  std::string name(info.param.name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(EmulatedAvx512Test, IsCompiledIn) {
#if !defined(CALIB_HAVE_SIMDE)
  GTEST_SKIP()
      << "SIMDe was not found when this was built (Debian: libsimde-dev); on CPUs without AVX-512 its kernel is not "
         "checked";
#endif
  EXPECT_EQ(KernelsUnderTest().back().name, "avx512-emulated");
}

TEST(DispatchTest, KernelsAreFoundByName) {
  EXPECT_EQ(AllKernels()[0].name, "scalar");
  EXPECT_TRUE(AllKernels()[0].supported());
  for (const Kernel& kernel : AllKernels()) EXPECT_EQ(FindKernel(kernel.name), &kernel);
  EXPECT_EQ(FindKernel("mmx"), nullptr);
  EXPECT_TRUE(ActiveKernel().supported());
}

}  // namespace
}  // namespace calib
