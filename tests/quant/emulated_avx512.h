#ifndef CALIB_TESTS_QUANT_EMULATED_AVX512_H_
#define CALIB_TESTS_QUANT_EMULATED_AVX512_H_

#include "quant/kernels/kernel.h"

namespace calib::kernels {

// The AVX-512 kernel's own source, compiled once more with the intrinsics of SIMDe, which run on any CPU.
extern const Kernel kEmulatedAvx512Kernel;

}  // namespace calib::kernels

#endif  // CALIB_TESTS_QUANT_EMULATED_AVX512_H_
