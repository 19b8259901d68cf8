#ifndef CALIB_QUANT_BIN_MODEL_H_
#define CALIB_QUANT_BIN_MODEL_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "quant/layer_statistics.h"

namespace calib {

// Counts over equal-width bins from low to high, as the frameworks search them. Borrowed.
struct EqualWidthHistogram {
  double low = 0;
  double high = 0;
  absl::Span<const double> counts;
};

// The distribution that a Bfloat16Histogram describes, prepared for searches: the expected squared error of a quantizer
// in O(levels) or O(bins), whichever is fewer, without allocation.
//
// Model. The bins that begin at zero (magnitudes below 2^-126 / 2^m) are a point mass at zero. In a lossless histogram
// every bin is a point mass at its number; else its mass is uniform inside the bin. The outermost bins are cut at the
// exact min and max, and one value each sits exactly there: a constant tensor is a point mass at its value, and a
// single outlier is where it is.
//
// Error. Let the codes' real values be 0, +-s, +-2s, ... with P steps above zero and N below. A value rounds to the
// nearest, beyond the ends to the end. For one side, with G(b) = the integral of (x - b) over all x > b,
//   sum of squared error = sum of x^2 - 2 s (G(s/2) + G(3s/2) + ... + G((P - 1/2) s)),
// since moving a value's code one step up from r to r + s lowers its squared error by 2 s (x - (r + s/2)), and it is
// moved exactly when it lies beyond the middle. G is piecewise quadratic with its knots at the bin edges: one look-up a
// level. The same error bin by bin: with k(x) = min(round(x / s), P) and f(x) = x - k(x) s, the integral of f^2 from 0
// to x is k s^3 / 12 + f^3 / 3.
//
// Immutable after construction; safe to read from any thread.
class BinModel {
 public:
  // A bin that holds something: `mass` values with magnitudes in [begin, end]. Of these `at_begin` are exactly begin,
  // `at_end` exactly end, and the others uniform between. begin == end: all are at_end.
  struct Bin {
    double begin;
    double end;
    double mass;
    double at_begin;
    double at_end;

    double uniform_mass() const { return mass - at_begin - at_end; }
  };

  // One side of zero, by magnitude.
  class Side {
   public:
    // Values of this side, without zeros.
    double mass() const { return mass_; }
    // Sum of magnitudes.
    double magnitude_sum() const { return TailExcess(0); }
    // Sum of x^2.
    double square_sum() const { return square_below_.empty() ? 0 : square_below_.back(); }
    // Least and greatest magnitude; 0 without values.
    double least() const { return bins_.empty() ? 0 : bins_.front().begin; }
    double greatest() const { return bins_.empty() ? 0 : bins_.back().end; }
    // All bins that hold something, by rising magnitude.
    absl::Span<const Bin> bins() const { return bins_; }

    // Values with magnitude > b. b >= 0.
    double TailMass(double b) const;
    // G(b): the sum of (magnitude - b) over the values with magnitude > b. b >= 0.
    double TailExcess(double b) const;

    // Sum of squared error when this side has the codes' values 0, step, ..., levels * step. Relative error about
    // 1e-12. O(bins beyond step / 2). REQUIRES: step > 0, levels >= 0.
    double SquaredError(double step, int64_t levels) const;
    // The same, by G when that takes fewer look-ups; then the error is about 1e-15 of square_sum(), and the result may
    // be below zero by as much. For searches.
    double FastSquaredError(double step, int64_t levels) const;

   private:
    friend class BinModel;

    // What lies beyond `upper`, the end of a bin (filled or not), and in it.
    struct Knot {
      double upper;
      double density;  // of the uniform part of the bin
      double mass_above;
      double excess_above;  // TailExcess(upper)
    };

    // Index of the last knot at or below b. REQUIRES: least() <= b < greatest().
    const Knot& KnotAt(double b) const;
    // Prepare everything from bins_: by the keys of a resolution, or with knots_ of the right size, of which knot i
    // begins at lower_edge(i).
    void FinishKeys(int mantissa_bits);
    template <typename LowerEdge>
    void Finish(const LowerEdge& lower_edge);

    std::vector<Bin> bins_;
    std::vector<double> square_below_;  // [i]: sum of x^2 over bins_[0] to bins_[i - 1]; one entry more than bins_
    std::vector<Knot> knots_;           // one for each key from first_key_ to that of greatest(), or for each bin
    int64_t first_key_ = 0;
    int mantissa_bits_ = 0;  // 0: the knots are not found by key
    double mass_ = 0;
    double excess_ = 0;  // TailExcess(least())
  };

  // REQUIRES: statistics.histogram has a value and range.count > 0.
  explicit BinModel(const ChannelStatistics& statistics);
  // Uniform inside each bin, also inside one that holds zero; no point masses. Extremes are the ends of the outermost
  // bins that hold something.
  // REQUIRES: low < high are finite, at least one count is > 0.
  explicit BinModel(const EqualWidthHistogram& histogram);

  const Side& positive() const { return positive_; }
  const Side& negative() const { return negative_; }
  double zeros() const { return zeros_; }
  double count() const { return zeros_ + positive_.mass() + negative_.mass(); }
  // Exact extremes.
  double min() const { return min_; }
  double max() const { return max_; }
  // Sum of x^2 over all values.
  double square_sum() const { return positive_.square_sum() + negative_.square_sum(); }

 private:
  Side positive_, negative_;
  double zeros_ = 0, min_ = 0, max_ = 0;
};

}  // namespace calib

#endif  // CALIB_QUANT_BIN_MODEL_H_
