#include "quant/code_error.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/types/span.h"

namespace calib {
namespace {

using Bin = BinModel::Bin;

// The FP8 number nearest to y by its place among the numbers, and the gap between numbers about y.
struct Nearest {
  size_t place;
  double gap;
};

// Rounds to nearest what has half a step added; std::round is a call on x86-64 without SSE4.1. REQUIRES: x >= 0.
size_t RoundedDown(double x) { return static_cast<size_t>(x); }

// REQUIRES: 0 <= y < the greatest number.
Nearest NearestFloat8(CodeKind kind, double y) {
  const int bits = kind == CodeKind::kFloat8E4M3 ? 3 : 2, least = kind == CodeKind::kFloat8E4M3 ? -6 : -14;
  const int exponent = std::max(static_cast<int>(std::bit_cast<uint64_t>(y) >> 52) - 1023, least);
  const double gap = std::bit_cast<double>(static_cast<uint64_t>(exponent - bits + 1023) << 52);
  const double inverse = std::bit_cast<double>(static_cast<uint64_t>(bits - exponent + 1023) << 52);
  return {RoundedDown(y * inverse + 0.5) + (static_cast<size_t>(exponent - least) << bits), gap};
}

}  // namespace

double Float8SquaredError(const BinModel::Side& side, CodeKind kind, double step) {
  const absl::Span<const double> numbers = Float8Numbers(kind);
  double excess = 0;
  for (size_t i = 1; i < numbers.size(); ++i) {
    const double middle = (numbers[i - 1] + numbers[i]) / 2 * step;
    if (middle >= side.greatest()) break;
    excess += (numbers[i] - numbers[i - 1]) * side.TailExcess(middle);
  }
  return side.square_sum() - 2 * step * excess;
}

NormError::NormError(const BinModel::Side& side, CodeKind kind, double norm, double unit)
    : side_(side), kind_(kind), norm_(norm), unit_(unit) {
  constexpr double kWidth = 0.5 / kIntervals;
  for (size_t i = 0; i <= kIntervals; ++i) {
    const double distance = static_cast<double>(i) * kWidth, power = std::pow(distance, norm);
    table_[i] = {distance * power / (norm + 1), power * kWidth};
  }
  whole_gap_ = 2 * Antiderivative(0.5);
  below_.reserve(side.bins().size() + 1);
  below_.push_back(0);
  for (const Bin& bin : side.bins()) {
    const double begin = bin.begin / unit, end = bin.end / unit;
    double sum = bin.at_begin * std::pow(begin, norm) + bin.at_end * std::pow(end, norm);
    if (end > begin) sum += bin.uniform_mass() / (end - begin) * (Antiderivative(end) - Antiderivative(begin));
    below_.push_back(below_.back() + sum);
  }
  if (!IsFloat8(kind)) return;
  const absl::Span<const double> numbers = Float8Numbers(kind);
  for (size_t i = 1; i < numbers.size(); ++i) {
    const double gap_power = std::pow(numbers[i] - numbers[i - 1], norm + 1);
    whole_gaps_[i] = whole_gaps_[i - 1] + whole_gap_ * gap_power;
    gap_powers_[i] = gap_power;
  }
}

double NormError::Antiderivative(double distance) const {
  return std::copysign(std::pow(std::abs(distance), norm_ + 1) / (norm_ + 1), distance);
}

double NormError::SmallAntiderivative(double distance) const {
  const double place = std::abs(distance) * (2 * kIntervals);
  const size_t interval = std::min(static_cast<size_t>(place), kIntervals - 1);
  const double t = place - static_cast<double>(interval);
  const Knot &a = table_[interval], &b = table_[interval + 1];
  const double rise = b.value - a.value;
  const double value =
      a.value + t * (a.slope + t * (3 * rise - 2 * a.slope - b.slope + t * (a.slope + b.slope - 2 * rise)));
  return std::copysign(value, distance);
}

double NormError::IntegerIntegral(double y, double levels) const {
  if (y > levels + 0.5) return levels * whole_gap_ + Antiderivative(y - levels);
  const double code = std::min(static_cast<double>(RoundedDown(y + 0.5)), levels);
  return code * whole_gap_ + SmallAntiderivative(y - code);
}

double NormError::Float8Integral(double y) const {
  const absl::Span<const double> numbers = Float8Numbers(kind_);
  if (y >= numbers.back()) return whole_gaps_[numbers.size() - 1] + Antiderivative(y - numbers.back());
  const Nearest nearest = NearestFloat8(kind_, y);
  const double distance = y - numbers[nearest.place];
  const size_t upper = distance < 0 ? nearest.place : nearest.place + 1;
  return whole_gaps_[nearest.place] + gap_powers_[upper] * SmallAntiderivative(distance / nearest.gap);
}

double NormError::Distance(double y, double levels) const {
  if (!IsFloat8(kind_)) return y - static_cast<double>(static_cast<int64_t>(std::min(y + 0.5, levels)));
  const absl::Span<const double> numbers = Float8Numbers(kind_);
  return y - (y >= numbers.back() ? numbers.back() : numbers[NearestFloat8(kind_, y).place]);
}

double NormError::Error(double step, int64_t levels) const {
  const absl::Span<const Bin> bins = side_.bins();
  const bool float8 = IsFloat8(kind_);
  const double inverse = 1 / step, top = static_cast<double>(levels);
  if (!float8 && levels == 0) return sum();
  // Values that go to zero.
  const double middle = (float8 ? Float8Numbers(kind_)[1] : 1.0) * step / 2;
  const auto first = std::partition_point(bins.begin(), bins.end(), [&](const Bin& bin) { return bin.end <= middle; });
  const auto integral = [&](double y) { return float8 ? Float8Integral(y) : IntegerIntegral(y, top); };
  double error = 0, last = -1, last_integral = 0;
  for (auto bin = first; bin != bins.end(); ++bin) {
    const double begin = bin->begin * inverse, end = bin->end * inverse;
    if (bin->at_end > 0) error += bin->at_end * std::pow(std::abs(Distance(end, top)), norm_);
    if (bin->begin == bin->end) continue;
    if (bin->at_begin > 0) error += bin->at_begin * std::pow(std::abs(Distance(begin, top)), norm_);
    const double before = begin == last ? last_integral : integral(begin);
    last = end;
    last_integral = integral(end);
    error += bin->uniform_mass() / (end - begin) * (last_integral - before);
  }
  return below_[static_cast<size_t>(first - bins.begin())] + error * std::pow(step / unit_, norm_);
}

double NormError::Gain(double step, int64_t levels) const {
  const absl::Span<const Bin> bins = side_.bins();
  const double inverse = 1 / step, near = static_cast<double>(levels), far = near + 1, middle = near + 0.5;
  const auto antiderivative = [&](double y) { return Antiderivative(y - near) - Antiderivative(y - far); };
  double gain = 0, last = -1, last_antiderivative = 0;
  for (auto bin = bins.rbegin(); bin != bins.rend() && bin->end * inverse > middle; ++bin) {
    const double begin = bin->begin * inverse, end = bin->end * inverse, from = std::max(begin, middle);
    if (bin->at_end > 0) {
      gain += bin->at_end * (std::pow(end - near, norm_) - std::pow(std::abs(end - far), norm_));
    }
    if (bin->begin == bin->end) continue;
    if (bin->at_begin > 0 && begin > middle) {
      gain += bin->at_begin * (std::pow(begin - near, norm_) - std::pow(std::abs(begin - far), norm_));
    }
    const double upper = end == last ? last_antiderivative : antiderivative(end);
    last = from;
    last_antiderivative = antiderivative(from);
    gain += bin->uniform_mass() / (end - begin) * (upper - last_antiderivative);
  }
  return gain * std::pow(step / unit_, norm_);
}

}  // namespace calib
