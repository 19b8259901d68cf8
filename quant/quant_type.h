#ifndef CALIB_QUANT_QUANT_TYPE_H_
#define CALIB_QUANT_QUANT_TYPE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace calib {

// How codes are written.
enum class CodeKind : uint8_t {
  kInteger,     // two's complement or unsigned, 1 to 32 bits
  kFloat8E4M3,  // FP8 E4M3FN: 4 bits of exponent, no infinities, greatest 448
  kFloat8E5M2,  // FP8 E5M2: 5 bits of exponent, greatest finite 57344
  kAuto8,       // uint8 for data without a negative value, else int8, as MXNet's "auto"
};

// Type of the codes. int1 is [0, 1], as MegEngine's qint1; others are two's complement.
struct QuantType {
  static constexpr int kMostBits = 32;

  CodeKind kind = CodeKind::kInteger;
  int bits = 8;           // 8 for all but kInteger
  bool is_signed = true;  // true for all but kInteger

  // "int8", "uint4", "fp8_e4m3", "fp8_e5m2", "auto8".
  std::string Name() const;
  // Least and greatest code of an integer type of 1 to kMostBits bits; of FP8 the least and greatest number.
  // REQUIRES: not kAuto8.
  int64_t qmin() const;
  int64_t qmax() const;

  friend bool operator==(const QuantType&, const QuantType&) = default;
};

// The type of this name; INVALID_ARGUMENT names what there is.
absl::StatusOr<QuantType> ParseQuantType(absl::string_view name);

inline bool IsFloat8(CodeKind kind) { return kind == CodeKind::kFloat8E4M3 || kind == CodeKind::kFloat8E5M2; }

// The numbers >= 0 that FP8 codes stand for, rising from 0 to 448 or 57344 (OCP 8-bit Floating Point Specification 1.0,
// E4M3 without its NaN, E5M2 without its infinities). Static. REQUIRES: IsFloat8(kind).
absl::Span<const double> Float8Numbers(CodeKind kind);

}  // namespace calib

#endif  // CALIB_QUANT_QUANT_TYPE_H_
