#ifndef CALIB_QUANT_QUANT_SPEC_H_
#define CALIB_QUANT_QUANT_SPEC_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

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
  CodeKind kind = CodeKind::kInteger;
  int bits = 8;           // 8 for all but kInteger
  bool is_signed = true;  // true for all but kInteger

  // "int8", "uint4", "fp8_e4m3", "fp8_e5m2", "auto8".
  std::string Name() const;
  friend bool operator==(const QuantType&, const QuantType&) = default;
};

// The type of this name; INVALID_ARGUMENT names what there is.
absl::StatusOr<QuantType> ParseQuantType(absl::string_view name);

enum class QuantScheme : uint8_t {
  kSymmetric,  // the real range is mirrored around zero
  kAffine,     // scale and zero point both follow the range
};

enum class QuantGranularity : uint8_t { kPerTensor, kPerChannel };

// A framework's conventions. README.md has the table with sources.
enum class QuantPreset : uint8_t { kPytorch, kTensorrt, kMegengine, kOnnxruntime, kMxnet, kAimet, kMmrazor };

// Codes from qmin to qmax.
struct CodeRange {
  int64_t qmin = 0;
  int64_t qmax = 0;

  friend bool operator==(const CodeRange&, const CodeRange&) = default;
};

// What is asked for.
struct QuantSpec {
  QuantType type;
  QuantScheme scheme = QuantScheme::kSymmetric;
  std::optional<bool> narrow_range;  // leave out the least code; unset: as the preset does
  QuantPreset preset = QuantPreset::kPytorch;
  QuantGranularity granularity = QuantGranularity::kPerTensor;
  // Only these codes of the type, which must hold them; qmin <= 0 <= qmax, qmin < qmax. Unset: all, or as narrow_range
  // says. Not together with narrow_range.
  std::optional<CodeRange> codes;
  // Half of the codes, for CPUs whose int8 products saturate: qmin and qmax halved towards minus infinity (PyTorch), or
  // as the preset has it.
  bool reduce_range = false;
  // The scale is rounded up to a power of two, so that nothing more is clipped; mse takes the best power of two.
  bool power_of_two_scale = false;

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

// How a range becomes scale and zero point: a QuantSpec with its preset's conventions spelled out.
struct QuantRules {
  // What a symmetric range's greatest magnitude is divided by to give the scale.
  enum class SymmetricDivisor : uint8_t {
    kHalfCodes,  // (qmax - qmin) / 2: 127.5 for int8
    kQmax,       // qmax - zero point: 127 for int8
  };

  int64_t qmin = -128;
  int64_t qmax = 127;
  bool symmetric = true;
  int64_t symmetric_zero_point = 0;
  SymmetricDivisor divisor = SymmetricDivisor::kHalfCodes;
  float scale_floor = 0;      // no scale is smaller
  float zero_amplitude = -1;  // a symmetric range's greatest magnitude up to this gives scale 1; negative: never

  // The number that a symmetric range's greatest magnitude is divided by.
  double symmetric_divisor() const;
};

// INVALID_ARGUMENT when bits are not 2 to 16 or the preset has no such scheme or range, with what to ask for instead.
absl::StatusOr<QuantRules> ResolveSpec(const QuantSpec& spec);

// A range of real values to be represented. min <= 0 <= max.
struct ClipRange {
  double min = 0;
  double max = 0;

  friend bool operator==(const ClipRange&, const ClipRange&) = default;
};

// x is about scale * (q - zero_point).
struct QParams {
  float scale = 0;
  int64_t zero_point = 0;

  friend bool operator==(const QParams&, const QParams&) = default;
};

// Scale and zero point of a range, computed in float32 exactly as the preset's framework does (PyTorch 1.13
// UniformQuantizationObserverBase._calculate_qparams; pytorch-quantization's tensor_quant.py). A range that does not
// include zero is widened to it. Where float32 would overflow to infinity (a width or an end beyond FLT_MAX) the
// division is done in double instead; the scale is always finite, and > 0 when scale_floor or zero_amplitude is.
QParams ParamsForRange(const QuantRules& rules, const ClipRange& range);

// The range that ParamsForRange turns into this scale, but for the last bits, and exactly this zero point.
// REQUIRES: scale is finite, at least FLT_MIN and rules.scale_floor; zero_point == symmetric_zero_point when symmetric,
// else qmin <= zero_point <= qmax.
ClipRange RangeForParams(const QuantRules& rules, double scale, int64_t zero_point);

}  // namespace calib

#endif  // CALIB_QUANT_QUANT_SPEC_H_
