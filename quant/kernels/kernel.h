#ifndef CALIB_QUANT_KERNELS_KERNEL_H_
#define CALIB_QUANT_KERNELS_KERNEL_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "quant/data_type.h"

namespace calib {

// Dense working table of the histogram kernels: several copies of a counter for each of the 65,536 values of bits(x) >>
// 16, so that runs of equal values do not wait for their own stores. The number of values of a key is the sum over the
// copies. All zero between calls.
struct KeyCounters {
  static constexpr size_t kCopies = 2;
  static constexpr size_t kKeys = 65536;
  alignas(64) uint32_t counts[kCopies][kKeys];
};

// What one kernel call saw. min and max are +inf and -inf without finite values; -0 is +0.
struct KernelResult {
  float min;
  float max;
  uint64_t nan;
  uint64_t positive_infinity;
  uint64_t negative_infinity;
  // OR of the bits(x) of all finite x. Bits 0 to 15 tell whether anything was dropped, bits 16 to 18 whether a coarser
  // resolution drops more.
  uint32_t finite_bits;
  // Least magnitude bits(x) & 0x7fffffff of the finite x that are not 0; 0x7fffffff without any. With min and max it
  // bounds the pages touched.
  uint32_t least_magnitude;
};

// Most elements of one call, so that 32-bit counters can't overflow.
inline constexpr size_t kMaxKernelElements = size_t{1} << 30;

// One implementation of the observe pass. All give equal results, bit for bit, for every input, length and alignment.
struct Kernel {
  absl::string_view name;  // "scalar", "avx2", "avx512"
  bool (*supported)();     // whether this CPU can run it
  // `elements` little-endian elements of `type` at any alignment, at most kMaxKernelElements. Adds each to `counters`
  // under bits(x) >> 16, in any copy: -0 under 0x8000, and what is not finite in pages 255 and 511 (key >> 7).
  KernelResult (*histogram)(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters);
  // The same without counting.
  KernelResult (*range)(DataType type, const uint8_t* data, size_t elements);
};

// Every kernel compiled in, slowest first; the first is scalar and runs everywhere.
absl::Span<const Kernel> AllKernels();

// The kernel of this name, or nullptr.
const Kernel* FindKernel(absl::string_view name);

// The fastest supported kernel; or the one that the environment variable CALIB_KERNEL names, if it is known and
// supported (else a warning goes to stderr, once). Chosen at the first call.
const Kernel& ActiveKernel();

}  // namespace calib

#endif  // CALIB_QUANT_KERNELS_KERNEL_H_
