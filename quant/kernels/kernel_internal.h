#ifndef CALIB_QUANT_KERNELS_KERNEL_INTERNAL_H_
#define CALIB_QUANT_KERNELS_KERNEL_INTERNAL_H_

#include <cstddef>
#include <cstdint>

#include "quant/data_type.h"
#include "quant/kernels/kernel.h"

// What the kernels share among themselves.
namespace calib::kernels {

inline constexpr uint32_t kMagnitudeMask = 0x7fffffff;
inline constexpr uint32_t kInfinityBits = 0x7f800000;
// KernelResult::least_magnitude where nothing but zeros was seen.
inline constexpr uint32_t kNoMagnitude = 0x7fffffff;

// The result of no elements: identity of Combine.
KernelResult NothingSeen();

// Adds what `part` saw to `result`.
void Combine(const KernelResult& part, KernelResult* result);

// The reference, which vector kernels also use for what does not fill a vector. `counters` may be null: no counting
// then.
KernelResult Scalar(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters);

// What a vector kernel has after its lanes were reduced. All values are bits(x) of finite x.
struct FiniteExtremes {
  int32_t signed_max;       // greatest, as signed integers
  uint32_t unsigned_max;    // greatest, as unsigned integers
  uint32_t unsigned_min;    // least, as unsigned integers
  uint32_t bits;            // OR of all
  uint32_t least_less_one;  // least of magnitude - 1, which wraps for zero
};

// The result that these extremes spell, with no value that is not finite. Integers throughout, so that a thread's
// denormals-are-zero mode changes nothing.
KernelResult FromExtremes(const FiniteExtremes& extremes);

extern const Kernel kScalarKernel;
#if defined(__x86_64__)
extern const Kernel kAvx2Kernel;
extern const Kernel kAvx512Kernel;
#endif

}  // namespace calib::kernels

#endif  // CALIB_QUANT_KERNELS_KERNEL_INTERNAL_H_
