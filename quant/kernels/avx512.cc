#if defined(__x86_64__)

// A test compiles this file once more with intrinsics that any CPU can run.
#if !defined(CALIB_EMULATED_AVX512)
#if !defined(__clang__)
// GCC 12 warns of its own intrinsics' deliberately undefined operands.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#define CALIB_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define CALIB_AVX512_INLINE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"), always_inline)) inline
#endif

#include <cstring>

#include "quant/kernels/kernel_internal.h"

namespace calib::kernels {
namespace {

constexpr size_t kLanes = 16;
// Vectors of one round: one test for NaN and infinities serves them all.
constexpr size_t kVectors = 2;

struct Accumulators {
  __m512i signed_max, unsigned_max, unsigned_min, bits, least_less_one;
};

template <DataType type>
CALIB_AVX512_INLINE __m512i LoadBits(const uint8_t* data) {
  if constexpr (type == DataType::kFloat32) {
    return _mm512_loadu_si512(data);
  } else {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
    if constexpr (type == DataType::kFloat16) return _mm512_castps_si512(_mm512_cvtph_ps(halves));
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
  }
}

CALIB_AVX512_INLINE __m512i Magnitude(__m512i bits) {
  return _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(kMagnitudeMask)));
}

// The lanes that hold NaN or an infinity.
CALIB_AVX512_INLINE __mmask16 NotFinite(__m512i bits) {
  return _mm512_cmpgt_epi32_mask(Magnitude(bits), _mm512_set1_epi32(static_cast<int>(kInfinityBits - 1)));
}

CALIB_AVX512_INLINE void Accumulate(__m512i bits, Accumulators* seen) {
  seen->signed_max = _mm512_max_epi32(seen->signed_max, bits);
  seen->unsigned_max = _mm512_max_epu32(seen->unsigned_max, bits);
  seen->unsigned_min = _mm512_min_epu32(seen->unsigned_min, bits);
  seen->bits = _mm512_or_si512(seen->bits, bits);
  seen->least_less_one =
      _mm512_min_epu32(seen->least_less_one, _mm512_add_epi32(Magnitude(bits), _mm512_set1_epi32(-1)));
}

CALIB_AVX512_INLINE uint64_t CountLanes(__mmask16 mask) {
  return static_cast<uint64_t>(__builtin_popcount(static_cast<unsigned>(mask)));
}

CALIB_AVX512 FiniteExtremes Reduce(const Accumulators& seen) {
  alignas(64) int32_t signed_max[kLanes];
  alignas(64) uint32_t unsigned_max[kLanes], unsigned_min[kLanes], bits[kLanes], least_less_one[kLanes];
  _mm512_store_si512(signed_max, seen.signed_max);
  _mm512_store_si512(unsigned_max, seen.unsigned_max);
  _mm512_store_si512(unsigned_min, seen.unsigned_min);
  _mm512_store_si512(bits, seen.bits);
  _mm512_store_si512(least_less_one, seen.least_less_one);
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
CALIB_AVX512_INLINE void CountKeys(const uint8_t* data, const __m512i (&bits)[vectors], KeyCounters* counters) {
  // The upper half of a float32 and all of a bfloat16 is the key as it lies in memory.
  const uint8_t* keys = type == DataType::kFloat32 ? data + 2 : data;
  constexpr size_t kStep = type == DataType::kFloat32 ? 4 : 2;
  alignas(64) uint16_t converted[vectors * kLanes];
  if constexpr (type == DataType::kFloat16) {
    for (size_t v = 0; v < vectors; ++v) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(converted + v * kLanes),
                         _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits[v], 16)));
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
CALIB_AVX512_INLINE void Round(const uint8_t* data, __m512i finite, KeyCounters* counters, Accumulators* seen,
                               KernelResult* result) {
  __m512i bits[vectors];
  unsigned any = 0;
  for (size_t v = 0; v < vectors; ++v) {
    bits[v] = LoadBits<type>(data + v * kLanes * ElementSize(type));
    any |= NotFinite(bits[v]);
  }
  if constexpr (counting) CountKeys<type>(data, bits, counters);
  if (__builtin_expect(any != 0, 0)) {
    const __m512i infinity = _mm512_set1_epi32(static_cast<int>(kInfinityBits));
    const __m512i negative_infinity = _mm512_set1_epi32(static_cast<int>(kInfinityBits | 0x80000000));
    for (size_t v = 0; v < vectors; ++v) {
      result->nan += CountLanes(_mm512_cmpgt_epi32_mask(Magnitude(bits[v]), infinity));
      result->positive_infinity += CountLanes(_mm512_cmpeq_epi32_mask(bits[v], infinity));
      result->negative_infinity += CountLanes(_mm512_cmpeq_epi32_mask(bits[v], negative_infinity));
      bits[v] = _mm512_mask_mov_epi32(bits[v], NotFinite(bits[v]), finite);
    }
  }
  for (size_t v = 0; v < vectors; ++v) Accumulate(bits[v], seen);
}

template <DataType type, bool counting>
CALIB_AVX512 KernelResult Run(const uint8_t* data, size_t elements, KeyCounters* counters) {
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
    const __m512i finite = _mm512_set1_epi32(static_cast<int>(first_bits));
    Accumulators seen = {finite, finite, finite, finite, _mm512_set1_epi32(-1)};
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

#if defined(CALIB_EMULATED_AVX512)

bool Supported() { return true; }

}  // namespace

const Kernel kEmulatedAvx512Kernel = {"avx512-emulated", Supported, Histogram, RangeOnly};

#else

bool Supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

}  // namespace

const Kernel kAvx512Kernel = {"avx512", Supported, Histogram, RangeOnly};

#endif  // defined(CALIB_EMULATED_AVX512)

}  // namespace calib::kernels

#endif  // defined(__x86_64__)
