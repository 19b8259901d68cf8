#include "tests/support/random_tensors.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace calib::test {

std::vector<float> RandomTensor(Rng& rng, size_t elements, bool specials) {
  std::normal_distribution<float> gauss;
  std::uniform_int_distribution<int> percent(0, 99);
  const auto bits = [&rng] { return static_cast<uint32_t>(rng()); };
  std::vector<float> tensor(elements);
  for (float& x : tensor) {
    const int p = percent(rng);
    if (p < 60) {
      x = gauss(rng);
    } else if (p < 70) {
      x = gauss(rng) / (std::abs(gauss(rng)) + 1e-6f);  // heavy tails
    } else if (p < 80) {
      x = p < 76 ? 0.0f : -0.0f;
    } else if (p < 85) {
      x = std::bit_cast<float>(bits() & 0x807fffffu);  // subnormal
    } else if (p < 90) {
      x = std::bit_cast<float>((bits() & 0x80ffffffu) | 0x7e000000u);  // huge, finite
      if (!std::isfinite(x)) x = 1;
    } else if (p < 95) {
      x = std::bit_cast<float>(bits() & 0xffff0000u);  // any bfloat16
      if (!specials && !std::isfinite(x)) x = -1;
    } else if (specials) {
      x = std::bit_cast<float>(0x7f800000u | (bits() & 0x80000000u) | (p < 97 ? 0 : 1 + (bits() >> 10)));
    } else {
      x = std::bit_cast<float>(bits() & 0x8000ffffu);  // nearest to zero
    }
  }
  return tensor;
}

std::vector<size_t> RandomSplit(Rng& rng, size_t elements, size_t parts) {
  std::vector<size_t> ends;
  for (size_t i = 1; i < parts; ++i) ends.push_back(std::uniform_int_distribution<size_t>(0, elements)(rng));
  ends.push_back(elements);
  std::sort(ends.begin(), ends.end());
  return ends;
}

}  // namespace calib::test
