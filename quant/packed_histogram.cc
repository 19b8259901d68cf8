#include "quant/packed_histogram.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace calib {
namespace {

constexpr uint8_t kSparse = 0x10;  // added to the width

static_assert(std::endian::native == std::endian::little, "counters are copied as they lie in memory");

size_t WidthFor(uint64_t greatest) {
  if (greatest <= 0xff) return 1;
  if (greatest <= 0xffff) return 2;
  return greatest <= 0xffffffff ? 4 : 8;
}

// Calls `use` with a zero of the unsigned type of this width, so that loops over counters know their width when
// compiled.
template <typename Use>
auto WithWidth(size_t width, Use use) {
  switch (width) {
    case 1:
      return use(uint8_t{0});
    case 2:
      return use(uint16_t{0});
    case 4:
      return use(uint32_t{0});
    default:
      return use(uint64_t{0});
  }
}

template <typename Count>
Count Load(const char* from) {
  Count count;
  std::memcpy(&count, from, sizeof(Count));
  return count;
}

// The encoded counters of one page.
struct EncodedPage {
  uint32_t page = 0;
  bool sparse = false;
  size_t width = 0;    // bytes of a counter; 0 when the encoding is none that exists
  size_t entries = 0;  // counters, or pairs
  const char* data = nullptr;

  size_t bytes() const { return entries * (sparse ? width + 1 : width); }

  // Passes each counter as (index in page, count), in order.
  template <typename Receive>
  void ForEach(Receive receive) const {
    WithWidth(width, [&](auto zero) {
      using Count = decltype(zero);
      const size_t step = sparse ? sizeof(Count) + 1 : sizeof(Count);
      for (size_t i = 0; i < entries; ++i) {
        const char* const at = data + i * step;
        if (sparse) {
          receive(size_t{static_cast<uint8_t>(*at)}, uint64_t{Load<Count>(at + 1)});
        } else {
          receive(i, uint64_t{Load<Count>(at)});
        }
      }
    });
  }
};

// Reads the head of the page `i`; entries stays 0 for a sparse one.
EncodedPage PageHead(const PackedHistogramView& packed, size_t i) {
  const uint8_t encoding = static_cast<uint8_t>(packed.encoding[i]);
  EncodedPage page;
  page.page = packed.page[i];
  page.sparse = (encoding & kSparse) != 0;
  const size_t width = encoding & ~kSparse;
  page.width = width == 1 || width == 2 || width == 4 || width == 8 ? width : 0;
  if (!page.sparse) page.entries = size_t{1} << packed.mantissa_bits;
  return page;
}

// Sum of up to 128 counters, in the narrowest type that holds it: wide lanes are what costs.
template <typename Count>
uint64_t SumDense(const char* from, size_t entries) {
  using Partial =
      std::conditional_t<sizeof(Count) == 1, uint16_t, std::conditional_t<sizeof(Count) == 2, uint32_t, uint64_t>>;
  Partial sum = 0;
  for (size_t i = 0; i < entries; ++i) sum = static_cast<Partial>(sum + Load<Count>(from + i * sizeof(Count)));
  return sum;
}

// Adds dense counters; returns their sum.
uint64_t AddDense(const EncodedPage& page, uint64_t* to) {
  return WithWidth(page.width, [&](auto zero) {
    using Count = decltype(zero);
    for (size_t i = 0; i < page.entries; ++i) to[i] += Load<Count>(page.data + i * sizeof(Count));
    return SumDense<Count>(page.data, page.entries);
  });
}

void WriteCounters(absl::Span<const uint64_t> counters, size_t width, bool sparse, char* to) {
  WithWidth(width, [&](auto zero) {
    using Count = decltype(zero);
    for (size_t i = 0; i < counters.size(); ++i) {
      if (sparse && counters[i] == 0) continue;
      if (sparse) *to++ = static_cast<char>(i);
      const Count count = static_cast<Count>(counters[i]);
      std::memcpy(to, &count, sizeof(Count));
      to += sizeof(Count);
    }
  });
}

// What ValidatePacked learns of the counts as it goes over them, to compare with the range.
struct Seen {
  uint64_t sum = 0;
  // Pages that hold the least and greatest magnitude of each sign, in this order: pages come by increasing magnitude.
  EncodedPage first_positive, last_positive, first_negative, last_negative;
  bool positive = false, negative = false;
};

absl::Status PageError(const PackedHistogramView& packed, size_t i, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("page ", packed.page[i], " (entry ", i, "): ", what));
}

// Sums the counts of a page. False when they pass 2^64 - 1.
bool SumPage(const EncodedPage& page, uint64_t* sum) {
  *sum = 0;
  if (!page.sparse && page.width < 8) {
    *sum = WithWidth(page.width, [&](auto zero) { return SumDense<decltype(zero)>(page.data, page.entries); });
    return true;
  }
  bool fits = true;
  page.ForEach([&](size_t, uint64_t count) {
    fits = fits && count <= std::numeric_limits<uint64_t>::max() - *sum;
    *sum += count;
  });
  return fits;
}

absl::Status CheckCounts(const PackedHistogramView& packed, size_t i, const EncodedPage& page, Seen* seen) {
  if (page.sparse) {
    const size_t size = size_t{1} << packed.mantissa_bits;
    size_t next = 0;
    bool in_order = true;
    page.ForEach([&](size_t index, uint64_t) {
      in_order = in_order && index >= next && index < size;
      next = index + 1;
    });
    if (!in_order) return PageError(packed, i, absl::StrCat("sparse indexes must increase and be below ", size));
  }
  uint64_t sum;
  if (!SumPage(page, &sum) || sum > std::numeric_limits<uint64_t>::max() - seen->sum) {
    return absl::OutOfRangeError("the histogram's counts add up to more than 2^64 - 1");
  }
  if (sum == 0) return PageError(packed, i, "all counts are 0; leave the page out");
  seen->sum += sum;
  if (page.page == 256 && packed.mantissa_bits == Bfloat16Histogram::kMaxMantissaBits) {
    uint64_t negative_zeros = 0;
    page.ForEach([&](size_t index, uint64_t count) { negative_zeros += index == 0 ? count : 0; });
    if (negative_zeros != 0) return PageError(packed, i, "key 0x8000 (-0) must be counted as key 0");
  }
  bool& any = page.page < 256 ? seen->positive : seen->negative;
  if (!any) (page.page < 256 ? seen->first_positive : seen->first_negative) = page;
  (page.page < 256 ? seen->last_positive : seen->last_negative) = page;
  any = true;
  return absl::OkStatus();
}

// First or last key with a count of a page that has one.
uint32_t OuterKey(const PackedHistogramView& packed, const EncodedPage& page, bool last) {
  size_t found = size_t{1} << packed.mantissa_bits;
  page.ForEach([&](size_t index, uint64_t count) {
    if (count != 0 && (last || index < found)) found = index;
  });
  return (page.page << packed.mantissa_bits) + static_cast<uint32_t>(found);
}

absl::Status CheckAgainstRange(const PackedHistogramView& packed, const Range& range, const Seen& seen) {
  if (seen.sum != range.count) {
    return absl::InvalidArgumentError(
        absl::StrCat("the histogram counts ", seen.sum, " values and its range ", range.count, "; they must be equal"));
  }
  if (range.count == 0) return absl::OkStatus();
  if (!std::isfinite(range.min) || !std::isfinite(range.max) || LessByBits(range.max, range.min)) {
    return absl::InvalidArgumentError(
        absl::StrCat("min ", range.min, " and max ", range.max, " must be finite and in this order"));
  }
  const int drop = Bfloat16Histogram::kMaxMantissaBits - static_cast<int>(packed.mantissa_bits);
  const auto check = [&](absl::string_view name, float value, uint32_t key) -> absl::Status {
    const int mantissa_bits = static_cast<int>(packed.mantissa_bits);
    if (Bfloat16Key(value) >> drop != key) {
      return absl::InvalidArgumentError(absl::StrCat(name, " ", value,
                                                     " lies outside the histogram's outermost bin from ",
                                                     BinBegin(key, mantissa_bits), " to ", BinEnd(key, mantissa_bits)));
    }
    if (packed.lossless && value != BinBegin(key, mantissa_bits)) {
      return absl::InvalidArgumentError(absl::StrCat("the histogram claims to be lossless, but ", name, " ", value,
                                                     " is not the first number of its bin, ",
                                                     BinBegin(key, mantissa_bits)));
    }
    return absl::OkStatus();
  };
  const uint32_t least = seen.negative ? OuterKey(packed, seen.last_negative, /*last=*/true)
                                       : OuterKey(packed, seen.first_positive, /*last=*/false);
  const uint32_t greatest = seen.positive ? OuterKey(packed, seen.last_positive, /*last=*/true)
                                          : OuterKey(packed, seen.first_negative, /*last=*/false);
  if (absl::Status status = check("min", range.min, least); !status.ok()) return status;
  return check("max", range.max, greatest);
}

}  // namespace

void Pack(const Bfloat16Histogram& histogram, PackedHistogram* packed) {
  packed->mantissa_bits = static_cast<uint32_t>(histogram.mantissa_bits());
  packed->lossless = histogram.lossless();
  packed->page.clear();
  packed->encoding.clear();
  packed->sparse_pairs.clear();
  packed->counts.clear();
  for (int page = 0; page < Bfloat16Histogram::kPages; ++page) {
    const absl::Span<const uint64_t> counters = histogram.page(page);
    uint64_t bits = 0;
    size_t pairs = 0;
    for (const uint64_t count : counters) {
      bits |= count;
      pairs += count != 0;
    }
    if (pairs == 0) continue;
    const size_t width = WidthFor(bits);
    const size_t dense_bytes = counters.size() * width;
    const size_t sparse_bytes = pairs * (width + 1);
    const bool sparse = 1 + sparse_bytes < dense_bytes;
    packed->page.push_back(static_cast<uint32_t>(page));
    packed->encoding.push_back(static_cast<char>(sparse ? kSparse + width : width));
    if (sparse) packed->sparse_pairs.push_back(static_cast<char>(pairs - 1));
    const size_t begin = packed->counts.size();
    packed->counts.resize(begin + (sparse ? sparse_bytes : dense_bytes));
    WriteCounters(counters, width, sparse, &packed->counts[begin]);
  }
}

absl::Status ValidatePacked(const PackedHistogramView& packed, const Range& range) {
  if (packed.mantissa_bits < Bfloat16Histogram::kMinMantissaBits ||
      packed.mantissa_bits > Bfloat16Histogram::kMaxMantissaBits) {
    return absl::InvalidArgumentError(absl::StrCat("mantissa_bits is ", packed.mantissa_bits, "; it must be ",
                                                   Bfloat16Histogram::kMinMantissaBits, " to ",
                                                   Bfloat16Histogram::kMaxMantissaBits));
  }
  if (packed.encoding.size() != packed.page.size()) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", packed.page.size(), " pages and ",
                                                   packed.encoding.size(), " encodings; each page needs one"));
  }
  const size_t size = size_t{1} << packed.mantissa_bits;
  size_t sparse_pages = 0;
  size_t read = 0;
  Seen seen;
  for (size_t i = 0; i < packed.page.size(); ++i) {
    const uint32_t page = packed.page[i];
    if (page >= Bfloat16Histogram::kPages) return PageError(packed, i, "pages go from 0 to 511");
    if (i > 0 && page <= packed.page[i - 1]) {
      return PageError(packed, i, absl::StrCat("pages must increase, but the one before is ", packed.page[i - 1]));
    }
    if ((page & 255) == 255) return PageError(packed, i, "NaN and infinities are counted in the range, not here");
    EncodedPage encoded = PageHead(packed, i);
    if (encoded.width == 0) {
      return PageError(packed, i,
                       absl::StrCat("there is no encoding ", static_cast<uint8_t>(packed.encoding[i]),
                                    "; there are 1, 2, 4, 8 and 16 more for sparse pages"));
    }
    if (encoded.sparse) {
      if (sparse_pages == packed.sparse_pairs.size()) return PageError(packed, i, "sparse_pairs has no entry for it");
      encoded.entries = static_cast<uint8_t>(packed.sparse_pairs[sparse_pages++]) + size_t{1};
      if (encoded.entries > size) {
        return PageError(packed, i, absl::StrCat(encoded.entries, " pairs, but only ", size, " counters"));
      }
    }
    if (encoded.bytes() > packed.counts.size() - read) {
      return PageError(packed, i,
                       absl::StrCat("it takes ", encoded.bytes(), " bytes of counts, but only ",
                                    packed.counts.size() - read, " are left"));
    }
    encoded.data = packed.counts.data() + read;
    if (absl::Status status = CheckCounts(packed, i, encoded, &seen); !status.ok()) return status;
    read += encoded.bytes();
  }
  if (read != packed.counts.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("counts has ", packed.counts.size() - read, " bytes more than the pages take"));
  }
  if (sparse_pages != packed.sparse_pairs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("sparse_pairs has ", packed.sparse_pairs.size(), " entries for ", sparse_pages, " sparse pages"));
  }
  return CheckAgainstRange(packed, range, seen);
}

void AddPacked(const PackedHistogramView& packed, Bfloat16Histogram* histogram) {
  const int drop = static_cast<int>(packed.mantissa_bits) - histogram->mantissa_bits_;
  const size_t dropped = (size_t{1} << drop) - 1;
  const char* from = packed.counts.data();
  size_t sparse_pages = 0;
  bool firsts_only = true;
  if (histogram->counters_.empty()) histogram->counters_.reserve(packed.page.size() * histogram->counters_per_page());
  for (size_t i = 0; i < packed.page.size(); ++i) {
    EncodedPage encoded = PageHead(packed, i);
    if (encoded.sparse) encoded.entries = static_cast<uint8_t>(packed.sparse_pairs[sparse_pages++]) + size_t{1};
    encoded.data = from;
    from += encoded.bytes();
    uint64_t* const to = histogram->MutablePage(static_cast<int>(encoded.page));
    if (!encoded.sparse && drop == 0) {
      histogram->total_ += AddDense(encoded, to);
      continue;
    }
    uint64_t sum = 0;
    encoded.ForEach([&](size_t index, uint64_t count) {
      to[index >> drop] += count;
      sum += count;
      firsts_only = firsts_only && ((index & dropped) == 0 || count == 0);
    });
    histogram->total_ += sum;
  }
  if (!packed.page.empty() && !(packed.lossless && firsts_only)) histogram->MarkLossy();
}

absl::StatusOr<Bfloat16Histogram> Unpack(const PackedHistogramView& packed, const Range& range) {
  if (absl::Status status = ValidatePacked(packed, range); !status.ok()) return status;
  Bfloat16Histogram histogram(static_cast<int>(packed.mantissa_bits));
  AddPacked(packed, &histogram);
  return histogram;
}

}  // namespace calib
