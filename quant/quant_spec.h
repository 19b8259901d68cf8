#ifndef CALIB_QUANT_QUANT_SPEC_H_
#define CALIB_QUANT_QUANT_SPEC_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "quant/quant_rules.h"
#include "quant/quant_type.h"

namespace calib {

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
  // Leave out one code, so that as many are above the middle as below: the least; of unsigned types in presets
  // onnxruntime and aimet the greatest. Unset: as the preset does.
  std::optional<bool> narrow_range;
  QuantPreset preset = QuantPreset::kPytorch;
  QuantGranularity granularity = QuantGranularity::kPerTensor;
  // Only these codes of the type, which must hold them; qmin <= 0 <= qmax, qmin < qmax. Unset: all, or as narrow_range
  // says. Not together with narrow_range.
  std::optional<CodeRange> codes;
  // Half of the codes, for CPUs whose int8 products saturate: qmin and qmax halved towards minus infinity (PyTorch), or
  // as the preset has it. Given codes are halved too.
  bool reduce_range = false;
  // The scale is rounded up to a power of two, so that nothing more is clipped; mse takes the best power of two.
  bool power_of_two_scale = false;

  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

// The spec for a layer whose least value is `min`: type auto8 becomes uint8 if min >= 0, else int8. Other types stay.
QuantSpec ResolveAuto(const QuantSpec& spec, double min);

// INVALID_ARGUMENT when an integer type's bits are not 1 to 32, codes contradict the type or narrow_range, or the
// preset or type has no such scheme or range; the message says what to ask for instead. Type auto8 gives the rules of
// int8, and is refused where either of its types is.
absl::StatusOr<QuantRules> ResolveSpec(const QuantSpec& spec);

}  // namespace calib

#endif  // CALIB_QUANT_QUANT_SPEC_H_
