#ifndef CALIB_QUANT_BFLOAT16_HISTOGRAM_H_
#define CALIB_QUANT_BFLOAT16_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace calib {

struct PackedHistogramView;

// Counts of finite float32 values by the bfloat16 number that their upper bits spell: the bins are the 65,536
// bfloat16 numbers, so there is no range to know beforehand and merging is adding.
//
// Bins. The key of x is bits(x) >> 16; key 0x8000 (-0 and the negative subnormals above -2^-133) counts as key 0. With
// mantissa_bits m < 7 the low 7 - m bits of the key are dropped after that. The bin of positive key k holds
// [value(k), value(k + 1)), negative keys mirrored. The caller counts NaN and infinities elsewhere.
//
// Pages. A page is one sign and exponent: the 2^m counters whose keys share the upper 9 bits. Page p holds keys
// [p << m, (p + 1) << m). A page takes memory once a value fell into it; real activations touch 25 to 40.
//
// Merge laws. Merging and coarsening are exact and commute; merging is associative and commutative, and an empty
// histogram is its identity. Counts never wrap: the sum of all counters stays below 2^64.
//
// Not thread-safe.
class Bfloat16Histogram {
 public:
  static constexpr int kPages = 512;
  static constexpr int kMinMantissaBits = 4;
  static constexpr int kMaxMantissaBits = 7;

  // Empty. REQUIRES: kMinMantissaBits <= mantissa_bits <= kMaxMantissaBits.
  explicit Bfloat16Histogram(int mantissa_bits = kMaxMantissaBits);

  int mantissa_bits() const { return mantissa_bits_; }
  int counters_per_page() const { return 1 << mantissa_bits_; }
  // Sum of all counters.
  uint64_t total() const { return total_; }
  // True while every value counted was itself the first number of its bin (all dropped bits zero).
  bool lossless() const { return lossless_; }

  // The 2^m counters of a page, or an empty span when it was never touched. Valid until the next change.
  absl::Span<const uint64_t> page(int page) const;
  // Counter of one key of this resolution, 0 <= key < 512 << mantissa_bits().
  uint64_t count(uint32_t key) const;

  // OUT_OF_RANGE if adding this many values would pass 2^64 - 1.
  absl::Status CheckAdd(uint64_t values) const;

  // Adds 2^m counters to a page. REQUIRES: CheckAdd(their sum).ok(); at 7 bits counter 0 of page 256, which would be
  // key 0x8000, is 0.
  void AddPage(int page, absl::Span<const uint64_t> counters);
  void AddPage(int page, absl::Span<const uint32_t> counters);
  // Adds `count` values of one key of this resolution. REQUIRES: CheckAdd(count).ok(); key is not 0x8000 at 7 bits.
  void AddKey(uint32_t key, uint64_t count);
  // Adds one value of each of these keys. REQUIRES: as AddKey.
  void AddKeys(absl::Span<const uint16_t> keys);
  // Clears lossless(): some value had dropped bits that were not zero.
  void MarkLossy() { lossless_ = false; }

  // INVALID_ARGUMENT if `other` is coarser than this, OUT_OF_RANGE if counts would pass 2^64 - 1.
  absl::Status CheckMerge(const Bfloat16Histogram& other) const;
  // Adds `other`, coarsening what is finer. REQUIRES: CheckMerge(other).ok().
  void Merge(const Bfloat16Histogram& other);

  // The same values at a lower resolution. REQUIRES: kMinMantissaBits <= mantissa_bits <= this->mantissa_bits().
  Bfloat16Histogram Coarsened(int mantissa_bits) const;

  // Bytes of memory that this takes, itself included.
  size_t MemoryBytes() const;

  // Same resolution, lossless() and counters; pages that are all zero equal untouched ones.
  friend bool operator==(const Bfloat16Histogram& a, const Bfloat16Histogram& b);

  // In packed_histogram.h; adds to the counters in place.
  friend void AddPacked(const PackedHistogramView& packed, Bfloat16Histogram* histogram);

 private:
  static constexpr uint16_t kUntouched = 0xffff;

  // Counters of a page, made if need be.
  uint64_t* MutablePage(int page);
  template <typename Count>
  void AddCounters(int page, absl::Span<const Count> counters);

  int mantissa_bits_;
  bool lossless_ = true;
  uint64_t total_ = 0;
  std::vector<uint16_t> slot_;  // of each page: its place in counters_, in pages, or kUntouched; empty before the first
  std::vector<uint64_t> counters_;  // of the touched pages, in the order in which they were touched
};

// The 7-bit key that a finite float32 counts under.
uint32_t Bfloat16Key(float value);

// First (least in magnitude) and one-past-last number of the bin of a key, both with the key's sign; 0 <= key < 512 <<
// mantissa_bits. The end of the outermost bins is +-2^128. Exact in double.
double BinBegin(uint32_t key, int mantissa_bits);
double BinEnd(uint32_t key, int mantissa_bits);

// Drops the low `drop` bits of the keys of one page's counters: adds runs of 2^drop counters into `coarse`, which needs
// room for them, and returns the part that it filled.
absl::Span<const uint64_t> CoarsenCounters(absl::Span<const uint64_t> counters, int drop, absl::Span<uint64_t> coarse);

// Whether all counters whose key has one of the low `drop` bits set are 0: dropping those bits loses nothing.
bool FirstsOnly(absl::Span<const uint64_t> counters, int drop);

}  // namespace calib

#endif  // CALIB_QUANT_BFLOAT16_HISTOGRAM_H_
