#include "tests/quant/emulated_avx512.h"

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

#include <cstdint>

namespace calib::kernels {
namespace {

// The intrinsics that SIMDe 0.7.4 has not.
simde__m512i EmulatedCvtepu16Epi32(simde__m256i halves) {
  uint16_t from[16];
  uint32_t to[16];
  simde_mm256_storeu_si256(from, halves);
  for (int i = 0; i < 16; ++i) to[i] = from[i];
  return simde_mm512_loadu_si512(to);
}

simde__m256i EmulatedCvtepi32Epi16(simde__m512i words) {
  uint32_t from[16];
  uint16_t to[16];
  simde_mm512_storeu_si512(from, words);
  for (int i = 0; i < 16; ++i) to[i] = static_cast<uint16_t>(from[i]);
  return simde_mm256_loadu_si256(to);
}

simde__m512 EmulatedCvtphPs(simde__m256i halves) {
  alignas(64) float values[16];
  simde_mm256_store_ps(values, simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(halves, 0)));
  simde_mm256_store_ps(values + 8, simde_mm256_cvtph_ps(simde_mm256_extracti128_si256(halves, 1)));
  return simde_mm512_load_ps(values);
}

}  // namespace
}  // namespace calib::kernels

#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi16
#undef _mm512_cvtph_ps
#define _mm512_cvtepu16_epi32(halves) EmulatedCvtepu16Epi32(halves)
#define _mm512_cvtepi32_epi16(words) EmulatedCvtepi32Epi16(words)
#define _mm512_cvtph_ps(halves) EmulatedCvtphPs(halves)

#define __mmask16 simde__mmask16

#define CALIB_EMULATED_AVX512
#define CALIB_AVX512
#define CALIB_AVX512_INLINE inline
#include "quant/kernels/avx512.cc"
