#ifndef CALIB_QUANT_PACKED_HISTOGRAM_H_
#define CALIB_QUANT_PACKED_HISTOGRAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "quant/bfloat16_histogram.h"
#include "quant/range.h"

namespace calib {

// The byte form of a Bfloat16Histogram, for the wire and the disk: message Bfloat16Histogram of
// calib/v1/statistics.proto field by field, where it is specified. Packing is canonical: equal histograms pack to equal
// bytes. The shortest form of a page is told by its bytes in `counts` and `sparse_pairs` together.

// Borrowed; may hold anything until ValidatePacked has passed.
struct PackedHistogramView {
  uint32_t mantissa_bits = 0;
  bool lossless = false;
  absl::Span<const uint32_t> page;
  absl::string_view encoding;
  absl::string_view sparse_pairs;
  absl::string_view counts;
};

// Owned.
struct PackedHistogram {
  uint32_t mantissa_bits = 0;
  bool lossless = true;
  std::vector<uint32_t> page;
  std::string encoding;
  std::string sparse_pairs;
  std::string counts;

  PackedHistogramView view() const { return {mantissa_bits, lossless, page, encoding, sparse_pairs, counts}; }
};

// Packs into `*packed`, whose memory is reused.
void Pack(const Bfloat16Histogram& histogram, PackedHistogram* packed);

// Checks everything about `packed`: resolution, pages strictly increasing and below 512, encodings, lengths to the
// byte, sparse indexes increasing and inside the page, no zero page, key 0x8000 unused at 7 bits, no page of NaN and
// infinities (255, 511), sum of counts below 2^64; and that it agrees with `range`: sum == range.count, and min and max
// lie in the outermost bins, at their first numbers if it is lossless. Any encoding that holds the counts passes, not
// only the shortest; `lossless` of a histogram without pages is ignored. Allocates nothing but an error's text.
// INVALID_ARGUMENT says what and where; OUT_OF_RANGE when the sum overflows.
absl::Status ValidatePacked(const PackedHistogramView& packed, const Range& range);

// Adds the counts of `packed` to `histogram`, coarsening what is finer.
// REQUIRES: ValidatePacked passed, packed.mantissa_bits >= histogram->mantissa_bits(), histogram->CheckAdd(sum).ok().
void AddPacked(const PackedHistogramView& packed, Bfloat16Histogram* histogram);

// ValidatePacked, then a histogram of its own.
absl::StatusOr<Bfloat16Histogram> Unpack(const PackedHistogramView& packed, const Range& range);

}  // namespace calib

#endif  // CALIB_QUANT_PACKED_HISTOGRAM_H_
