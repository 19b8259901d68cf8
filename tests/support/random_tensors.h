#ifndef CALIB_TESTS_SUPPORT_RANDOM_TENSORS_H_
#define CALIB_TESTS_SUPPORT_RANDOM_TENSORS_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace calib::test {

using Rng = std::mt19937_64;

// Random float32 of every kind: gaussian, heavy tails, zeros of both signs, subnormals, huge, and with `specials` also
// NaN of several payloads and infinities. The same seed gives the same tensor.
std::vector<float> RandomTensor(Rng& rng, size_t elements, bool specials = true);

// Splits [0, elements) at random into up to `parts` runs; returns their ends, the last of which is `elements`.
std::vector<size_t> RandomSplit(Rng& rng, size_t elements, size_t parts);

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_RANDOM_TENSORS_H_
