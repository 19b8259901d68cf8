#include "quant/bfloat16_histogram.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

// Growing by few pages keeps a layer of 40 pages within 48 KiB; the fraction bounds the copying up to 512 pages.
constexpr size_t kGrowPages = 4;
constexpr size_t kGrowFraction = 16;

template <typename Count>
uint64_t Sum(absl::Span<const Count> counters) {
  uint64_t sum = 0;
  for (const Count count : counters) sum += count;
  return sum;
}

// Magnitude of the number with these bits of exponent and 7-bit mantissa, as if the exponent range had no end.
double KeyMagnitude(uint32_t key) {
  const int exponent = static_cast<int>(key >> 7);
  const double mantissa = key & 0x7f;
  return exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128 + mantissa, exponent - 134);
}

double BinEdge(uint32_t key, int mantissa_bits, uint32_t bins_beyond) {
  const uint32_t sign = uint32_t{256} << mantissa_bits;
  const double magnitude =
      KeyMagnitude(((key & (sign - 1)) + bins_beyond) << (Bfloat16Histogram::kMaxMantissaBits - mantissa_bits));
  return (key & sign) != 0 ? -magnitude : magnitude;
}

}  // namespace

Bfloat16Histogram::Bfloat16Histogram(int mantissa_bits) : mantissa_bits_(mantissa_bits) {}

absl::Span<const uint64_t> Bfloat16Histogram::page(int page) const {
  if (slot_.empty() || slot_[page] == kUntouched) return {};
  const size_t size = counters_per_page();
  return absl::MakeConstSpan(counters_.data() + slot_[page] * size, size);
}

uint64_t Bfloat16Histogram::count(uint32_t key) const {
  const absl::Span<const uint64_t> counters = page(static_cast<int>(key >> mantissa_bits_));
  return counters.empty() ? 0 : counters[key & (counters.size() - 1)];
}

absl::Status Bfloat16Histogram::CheckAdd(uint64_t values) const {
  if (values > std::numeric_limits<uint64_t>::max() - total_) {
    return absl::OutOfRangeError(absl::StrCat("adding ", values, " values to the ", total_,
                                              " in the histogram passes 2^64 - 1; start another session"));
  }
  return absl::OkStatus();
}

uint64_t* Bfloat16Histogram::MutablePage(int page) {
  const size_t size = counters_per_page();
  if (slot_.empty()) slot_.assign(kPages, kUntouched);
  if (slot_[page] == kUntouched) {
    const size_t pages = counters_.size() / size;
    if (counters_.size() == counters_.capacity()) {
      counters_.reserve((pages + std::max(kGrowPages, pages / kGrowFraction)) * size);
    }
    counters_.resize(counters_.size() + size);
    slot_[page] = static_cast<uint16_t>(pages);
  }
  return counters_.data() + slot_[page] * size;
}

template <typename Count>
void Bfloat16Histogram::AddCounters(int page, absl::Span<const Count> counters) {
  const uint64_t sum = Sum(counters);
  if (sum == 0) return;
  uint64_t* const to = MutablePage(page);
  for (size_t i = 0; i < counters.size(); ++i) to[i] += counters[i];
  total_ += sum;
}

void Bfloat16Histogram::AddPage(int page, absl::Span<const uint64_t> counters) { AddCounters(page, counters); }
void Bfloat16Histogram::AddPage(int page, absl::Span<const uint32_t> counters) { AddCounters(page, counters); }

void Bfloat16Histogram::AddKey(uint32_t key, uint64_t count) {
  if (count == 0) return;
  MutablePage(static_cast<int>(key >> mantissa_bits_))[key & (counters_per_page() - 1)] += count;
  total_ += count;
}

void Bfloat16Histogram::AddKeys(absl::Span<const uint16_t> keys) {
  if (keys.empty()) return;
  const int shift = mantissa_bits_;
  const uint32_t mask = (1u << shift) - 1;
  MutablePage(keys[0] >> shift);
  // Held apart from the members, which every counter written could otherwise be an alias of.
  const uint16_t* const slots = slot_.data();
  uint64_t* counters = counters_.data();
  for (const uint32_t key : keys) {
    const uint32_t page = key >> shift;
    if (slots[page] == kUntouched) {
      MutablePage(static_cast<int>(page));
      counters = counters_.data();
    }
    ++counters[(size_t{slots[page]} << shift) + (key & mask)];
  }
  total_ += keys.size();
}

absl::Status Bfloat16Histogram::CheckMerge(const Bfloat16Histogram& other) const {
  if (other.mantissa_bits_ < mantissa_bits_) {
    return absl::InvalidArgumentError(absl::StrCat("a histogram of ", other.mantissa_bits_,
                                                   " mantissa bits cannot be added to one of ", mantissa_bits_,
                                                   ": observe with at least ", mantissa_bits_));
  }
  return CheckAdd(other.total_);
}

void Bfloat16Histogram::Merge(const Bfloat16Histogram& other) {
  lossless_ = lossless_ && other.lossless_;
  const int drop = other.mantissa_bits_ - mantissa_bits_;
  std::array<uint64_t, 1 << kMaxMantissaBits> coarse;
  for (int p = 0; p < kPages; ++p) {
    absl::Span<const uint64_t> counters = other.page(p);
    if (counters.empty()) continue;
    if (drop > 0) {
      lossless_ = lossless_ && FirstsOnly(counters, drop);
      counters = CoarsenCounters(counters, drop, absl::MakeSpan(coarse));
    }
    AddPage(p, counters);
  }
}

Bfloat16Histogram Bfloat16Histogram::Coarsened(int mantissa_bits) const {
  Bfloat16Histogram result(mantissa_bits);
  result.Merge(*this);
  return result;
}

size_t Bfloat16Histogram::MemoryBytes() const {
  return sizeof(*this) + slot_.capacity() * sizeof(slot_[0]) + counters_.capacity() * sizeof(counters_[0]);
}

bool operator==(const Bfloat16Histogram& a, const Bfloat16Histogram& b) {
  if (a.mantissa_bits_ != b.mantissa_bits_ || a.lossless_ != b.lossless_ || a.total_ != b.total_) return false;
  for (int p = 0; p < Bfloat16Histogram::kPages; ++p) {
    const absl::Span<const uint64_t> x = a.page(p);
    const absl::Span<const uint64_t> y = b.page(p);
    if (x.empty() != y.empty() ? Sum(x) + Sum(y) != 0 : x != y) return false;
  }
  return true;
}

uint32_t Bfloat16Key(float value) {
  const uint32_t key = std::bit_cast<uint32_t>(value) >> 16;
  return key == 0x8000 ? 0 : key;
}

double BinBegin(uint32_t key, int mantissa_bits) { return BinEdge(key, mantissa_bits, 0); }
double BinEnd(uint32_t key, int mantissa_bits) { return BinEdge(key, mantissa_bits, 1); }

absl::Span<const uint64_t> CoarsenCounters(absl::Span<const uint64_t> counters, int drop, absl::Span<uint64_t> coarse) {
  const size_t size = counters.size() >> drop;
  std::fill_n(coarse.begin(), size, 0);
  for (size_t i = 0; i < counters.size(); ++i) coarse[i >> drop] += counters[i];
  return coarse.first(size);
}

bool FirstsOnly(absl::Span<const uint64_t> counters, int drop) {
  const size_t dropped = (size_t{1} << drop) - 1;
  uint64_t others = 0;
  for (size_t i = 0; i < counters.size(); ++i) others |= (i & dropped) != 0 ? counters[i] : 0;
  return others == 0;
}

}  // namespace calib
