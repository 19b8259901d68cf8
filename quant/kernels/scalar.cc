#include <bit>
#include <cstring>
#include <limits>

#include "quant/kernels/kernel_internal.h"
#include "quant/range.h"

namespace calib::kernels {
namespace {

template <DataType type>
uint32_t LoadBits(const uint8_t* data, size_t index) {
  if constexpr (type == DataType::kFloat32) {
    uint32_t bits;
    std::memcpy(&bits, data + 4 * index, 4);
    return bits;
  } else {
    uint16_t bits;
    std::memcpy(&bits, data + 2 * index, 2);
    if constexpr (type == DataType::kBfloat16) return static_cast<uint32_t>(bits) << 16;
    return std::bit_cast<uint32_t>(Float16ToFloat32(bits));
  }
}

// Integers in the order of the floats that they spell, and back: its own inverse. -0 is below +0.
int32_t Ordered(int32_t bits) { return bits < 0 ? bits ^ 0x7fffffff : bits; }

// The float of such an integer, with -0 made +0.
float FromOrdered(int32_t ordered) { return ordered == -1 ? 0.0f : std::bit_cast<float>(Ordered(ordered)); }

float WithoutNegativeZero(uint32_t bits) { return bits == 0x80000000 ? 0.0f : std::bit_cast<float>(bits); }

template <DataType type, bool counting>
KernelResult Run(const uint8_t* data, size_t elements, KeyCounters* counters) {
  KernelResult result = NothingSeen();
  int32_t least = std::numeric_limits<int32_t>::max();
  int32_t greatest = std::numeric_limits<int32_t>::min();
  for (size_t i = 0; i < elements; ++i) {
    const uint32_t bits = LoadBits<type>(data, i);
    const uint32_t magnitude = bits & kMagnitudeMask;
    if constexpr (counting) ++counters->counts[i % KeyCounters::kCopies][bits >> 16];
    if (magnitude >= kInfinityBits) {
      if (magnitude > kInfinityBits) {
        ++result.nan;
      } else if (bits == kInfinityBits) {
        ++result.positive_infinity;
      } else {
        ++result.negative_infinity;
      }
      continue;
    }
    const int32_t ordered = Ordered(static_cast<int32_t>(bits));
    least = ordered < least ? ordered : least;
    greatest = ordered > greatest ? ordered : greatest;
    result.finite_bits |= bits;
    if (magnitude != 0 && magnitude < result.least_magnitude) result.least_magnitude = magnitude;
  }
  if (least <= greatest) {
    result.min = FromOrdered(least);
    result.max = FromOrdered(greatest);
  }
  return result;
}

template <DataType type>
KernelResult Run(const uint8_t* data, size_t elements, KeyCounters* counters) {
  return counters != nullptr ? Run<type, true>(data, elements, counters) : Run<type, false>(data, elements, nullptr);
}

KernelResult ScalarRange(DataType type, const uint8_t* data, size_t elements) {
  return Scalar(type, data, elements, nullptr);
}

}  // namespace

KernelResult NothingSeen() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  return {kInfinity, -kInfinity, 0, 0, 0, 0, kNoMagnitude};
}

void Combine(const KernelResult& part, KernelResult* result) {
  if (LessByBits(part.min, result->min)) result->min = part.min;
  if (LessByBits(result->max, part.max)) result->max = part.max;
  result->nan += part.nan;
  result->positive_infinity += part.positive_infinity;
  result->negative_infinity += part.negative_infinity;
  result->finite_bits |= part.finite_bits;
  if (part.least_magnitude < result->least_magnitude) result->least_magnitude = part.least_magnitude;
}

KernelResult FromExtremes(const FiniteExtremes& extremes) {
  const bool any_negative = (extremes.unsigned_max >> 31) != 0;
  const bool any_positive = extremes.signed_max >= 0;
  KernelResult result = NothingSeen();
  result.min = WithoutNegativeZero(any_negative ? extremes.unsigned_max : extremes.unsigned_min);
  result.max = WithoutNegativeZero(any_positive ? static_cast<uint32_t>(extremes.signed_max) : extremes.unsigned_min);
  result.finite_bits = extremes.bits;
  result.least_magnitude = extremes.least_less_one < kNoMagnitude ? extremes.least_less_one + 1 : kNoMagnitude;
  return result;
}

KernelResult Scalar(DataType type, const uint8_t* data, size_t elements, KeyCounters* counters) {
  switch (type) {
    case DataType::kFloat32:
      return Run<DataType::kFloat32>(data, elements, counters);
    case DataType::kFloat16:
      return Run<DataType::kFloat16>(data, elements, counters);
    case DataType::kBfloat16:
      return Run<DataType::kBfloat16>(data, elements, counters);
  }
  return NothingSeen();
}

const Kernel kScalarKernel = {"scalar", [] { return true; }, Scalar, ScalarRange};

}  // namespace calib::kernels
