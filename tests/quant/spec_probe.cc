// Reads lines "type scheme reduce qmin qmax min max" (qmin and qmax may be "-": all codes; numbers as strtod reads
// them) and prints for each what preset pytorch makes of the range: a line of JSON with scale and zero_point, or with
// error.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/numbers.h"
#include "quant/quant_spec.h"

namespace {

// False when the line is malformed.
bool Answer(std::istream& line) {
  std::string type, scheme, reduce, qmin, qmax, min, max;
  if (!(line >> type >> scheme >> reduce >> qmin >> qmax >> min >> max)) return false;
  calib::QuantSpec spec;
  const auto parsed = calib::ParseQuantType(type);
  if (!parsed.ok()) return false;
  spec.type = *parsed;
  spec.scheme = scheme == "affine" ? calib::QuantScheme::kAffine : calib::QuantScheme::kSymmetric;
  spec.reduce_range = reduce == "1";
  calib::CodeRange codes;
  if (qmin != "-") {
    if (!absl::SimpleAtoi(qmin, &codes.qmin) || !absl::SimpleAtoi(qmax, &codes.qmax)) return false;
    spec.codes = codes;
  }
  const auto rules = calib::ResolveSpec(spec);
  if (!rules.ok()) {
    std::puts("{\"error\": true}");
    return true;
  }
  const calib::QParams params =
      calib::ParamsForRange(*rules, {std::strtod(min.c_str(), nullptr), std::strtod(max.c_str(), nullptr)});
  std::printf("{\"scale\": %.9g, \"zero_point\": %lld}\n", static_cast<double>(params.scale),
              static_cast<long long>(params.zero_point));
  return true;
}

}  // namespace

int main() {
  while (std::cin.peek() != std::istream::traits_type::eof()) {
    if (!Answer(std::cin)) return 1;
    std::cin >> std::ws;
  }
  return 0;
}
