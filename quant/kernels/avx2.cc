#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <cstring>

#include "quant/kernels/kernel_internal.h"

// Attributes of functions, not of the file: inline functions of the standard library that this file instantiates must
// stay runnable on any CPU, since the linker may keep this file's copy of them.
#define CALIB_AVX2 __attribute__((target("avx2,f16c")))
#define CALIB_AVX2_INLINE __attribute__((target("avx2,f16c"), always_inline)) inline

namespace calib::kernels {
namespace {

constexpr size_t kLanes = 8;
// Vectors of one round: one test for NaN and infinities serves them all.
constexpr size_t kVectors = 4;

struct Accumulators {
  __m256i signed_max, unsigned_max, unsigned_min, bits, least_less_one;
};

template <DataType type>
CALIB_AVX2_INLINE __m256i LoadBits(const uint8_t* data) {
  if constexpr (type == DataType::kFloat32) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  } else {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
    if constexpr (type == DataType::kFloat16) return _mm256_castps_si256(_mm256_cvtph_ps(halves));
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
  }
}

CALIB_AVX2_INLINE __m256i Magnitude(__m256i bits) {
  return _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(kMagnitudeMask)));
}

// All ones in the lanes that hold NaN or an infinity.
CALIB_AVX2_INLINE __m256i NotFinite(__m256i bits) {
  return _mm256_cmpgt_epi32(Magnitude(bits), _mm256_set1_epi32(static_cast<int>(kInfinityBits - 1)));
}

CALIB_AVX2_INLINE void Accumulate(__m256i bits, Accumulators* seen) {
  seen->signed_max = _mm256_max_epi32(seen->signed_max, bits);
  seen->unsigned_max = _mm256_max_epu32(seen->unsigned_max, bits);
  seen->unsigned_min = _mm256_min_epu32(seen->unsigned_min, bits);
  seen->bits = _mm256_or_si256(seen->bits, bits);
  seen->least_less_one =
      _mm256_min_epu32(seen->least_less_one, _mm256_add_epi32(Magnitude(bits), _mm256_set1_epi32(-1)));
}

CALIB_AVX2_INLINE uint64_t CountLanes(__m256i mask) {
  return static_cast<uint64_t>(__builtin_popcount(_mm256_movemask_ps(_mm256_castsi256_ps(mask))));
}

CALIB_AVX2 FiniteExtremes Reduce(const Accumulators& seen) {
  alignas(32) int32_t signed_max[kLanes];
  alignas(32) uint32_t unsigned_max[kLanes], unsigned_min[kLanes], bits[kLanes], least_less_one[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(signed_max), seen.signed_max);
  _mm256_store_si256(reinterpret_cast<__m256i*>(unsigned_max), seen.unsigned_max);
  _mm256_store_si256(reinterpret_cast<__m256i*>(unsigned_min), seen.unsigned_min);
  _mm256_store_si256(reinterpret_cast<__m256i*>(bits), seen.bits);
  _mm256_store_si256(reinterpret_cast<__m256i*>(least_less_one), seen.least_less_one);
  FiniteExtremes all = {signed_max[0], unsigned_max[0], unsigned_min[0], bits[0], least_less_one[0]};
  for (size_t i = 1; i < kLanes; ++i) {
    all.signed_max = signed_max[i] > all.signed_max ? signed_max[i] : all.signed_max;
    all.unsigned_max = unsigned_max[i] > all.unsigned_max ? unsigned_max[i] : all.unsigned_max;
    all.unsigned_min = unsigned_min[i] < all.unsigned_min ? unsigned_min[i] : all.unsigned_min;
    all.bits |= bits[i];
    all.least_less_one = least_less_one[i] < all.least_less_one ? least_less_one[i] : all.least_less_one;
  }
  return all;
}

// Counts the keys of the elements at `data`, whose bits are `bits`.
template <DataType type, size_t vectors>
CALIB_AVX2_INLINE void CountKeys(const uint8_t* data, const __m256i (&bits)[vectors], KeyCounters* counters) {
  // The upper half of a float32 and all of a bfloat16 is the key as it lies in memory.
  const uint8_t* keys = type == DataType::kFloat32 ? data + 2 : data;
  constexpr size_t kStep = type == DataType::kFloat32 ? 4 : 2;
  alignas(32) uint16_t converted[vectors * kLanes];
  if constexpr (type == DataType::kFloat16) {
    for (size_t v = 0; v < vectors; ++v) {
      const __m256i upper = _mm256_srli_epi32(bits[v], 16);
      const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
      _mm_store_si128(reinterpret_cast<__m128i*>(converted + v * kLanes), packed);
    }
    keys = reinterpret_cast<const uint8_t*>(converted);
  }
  for (size_t i = 0; i < vectors * kLanes; ++i) {
    uint16_t key;
    std::memcpy(&key, keys + i * kStep, 2);
    ++counters->counts[i % KeyCounters::kCopies][key];
  }
}

// One round. `finite` is an element seen before in every lane: it replaces what is not finite and changes no extreme.
template <DataType type, bool counting, size_t vectors>
CALIB_AVX2_INLINE void Round(const uint8_t* data, __m256i finite, KeyCounters* counters, Accumulators* seen,
                             KernelResult* result) {
  __m256i bits[vectors];
  __m256i any = _mm256_setzero_si256();
  for (size_t v = 0; v < vectors; ++v) {
    bits[v] = LoadBits<type>(data + v * kLanes * ElementSize(type));
    any = _mm256_or_si256(any, NotFinite(bits[v]));
  }
  if constexpr (counting) CountKeys<type>(data, bits, counters);
  if (__builtin_expect(!_mm256_testz_si256(any, any), 0)) {
    const __m256i infinity = _mm256_set1_epi32(static_cast<int>(kInfinityBits));
    const __m256i negative_infinity = _mm256_set1_epi32(static_cast<int>(kInfinityBits | 0x80000000));
    for (size_t v = 0; v < vectors; ++v) {
      result->nan += CountLanes(_mm256_cmpgt_epi32(Magnitude(bits[v]), infinity));
      result->positive_infinity += CountLanes(_mm256_cmpeq_epi32(bits[v], infinity));
      result->negative_infinity += CountLanes(_mm256_cmpeq_epi32(bits[v], negative_infinity));
      bits[v] = _mm256_blendv_epi8(bits[v], finite, NotFinite(bits[v]));
    }
  }
  for (size_t v = 0; v < vectors; ++v) Accumulate(bits[v], seen);
}

template <DataType type, bool counting>
CALIB_AVX2 KernelResult Run(const uint8_t* data, size_t elements, KeyCounters* counters) {
  constexpr size_t kSize = ElementSize(type);
  KernelResult result = NothingSeen();
  // Vectors need a finite element to stand in for what is not finite.
  while (elements > kLanes && result.min > result.max) {
    Combine(Scalar(type, data, 1, counting ? counters : nullptr), &result);
    data += kSize;
    --elements;
  }
  if (elements >= kLanes && result.min <= result.max) {
    uint32_t first_bits;
    std::memcpy(&first_bits, &result.min, 4);
    const __m256i finite = _mm256_set1_epi32(static_cast<int>(first_bits));
    Accumulators seen = {finite, finite, finite, finite, _mm256_set1_epi32(-1)};
    for (; elements >= kVectors * kLanes; elements -= kVectors * kLanes, data += kVectors * kLanes * kSize) {
      Round<type, counting, kVectors>(data, finite, counters, &seen, &result);
    }
    for (; elements >= kLanes; elements -= kLanes, data += kLanes * kSize) {
      Round<type, counting, 1>(data, finite, counters, &seen, &result);
    }
    Combine(FromExtremes(Reduce(seen)), &result);
  }
  Combine(Scalar(type, data, elements, counting ? counters : nullptr), &result);
  return result;
}

KernelResult Histogram(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters) {
  switch (type) {
    case DataType::kFloat32:
      return Run<DataType::kFloat32, true>(data, elements, counters);
    case DataType::kFloat16:
      return Run<DataType::kFloat16, true>(data, elements, counters);
    case DataType::kBfloat16:
      return Run<DataType::kBfloat16, true>(data, elements, counters);
  }
  return NothingSeen();
}

KernelResult RangeOnly(DataType type, const uint8_t* data, size_t elements) {
  switch (type) {
    case DataType::kFloat32:
      return Run<DataType::kFloat32, false>(data, elements, nullptr);
    case DataType::kFloat16:
      return Run<DataType::kFloat16, false>(data, elements, nullptr);
    case DataType::kBfloat16:
      return Run<DataType::kBfloat16, false>(data, elements, nullptr);
  }
  return NothingSeen();
}

bool Supported() {
  unsigned a, b, c, d;
  // Clang 14 knows no "f16c" to ask for.
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
  return f16c && __builtin_cpu_supports("avx2");
}

}  // namespace

const Kernel kAvx2Kernel = {"avx2", Supported, Histogram, RangeOnly};

}  // namespace calib::kernels

#endif  // defined(__x86_64__)
