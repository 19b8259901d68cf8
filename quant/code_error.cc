#include "quant/code_error.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/types/span.h"

namespace calib {
namespace {

// FP8's layout.
int MantissaBits(CodeKind kind) { return kind == CodeKind::kFloat8E4M3 ? 3 : 2; }
int LeastExponent(CodeKind kind) { return kind == CodeKind::kFloat8E4M3 ? -6 : -14; }

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

NormError::NormError(CodeKind kind, double norm, double unit) : kind_(kind), norm_(norm), unit_(unit) {
  if (!IsFloat8(kind)) return;
  const absl::Span<const double> numbers = Float8Numbers(kind);
  for (size_t i = 1; i < numbers.size(); ++i) {
    whole_gaps_[i] = whole_gaps_[i - 1] + 2 * std::pow((numbers[i] - numbers[i - 1]) / 2, norm + 1) / (norm + 1);
  }
}

NormError::Rounded NormError::Round(double y, double levels) const {
  if (!IsFloat8(kind_)) {
    // The clamp keeps the conversion in range.
    const double code = static_cast<double>(static_cast<int64_t>(std::min(y + 0.5, levels)));
    return {code, code};
  }
  const absl::Span<const double> numbers = Float8Numbers(kind_);
  if (y >= numbers.back()) return {numbers.back(), static_cast<double>(numbers.size() - 1)};
  const int least = LeastExponent(kind_), bits = MantissaBits(kind_);
  const int exponent = y > 0 ? std::max(std::ilogb(y), least) : least;
  const double mantissa = std::floor(std::ldexp(y, bits - exponent) + 0.5);
  return {std::ldexp(mantissa, exponent - bits), mantissa + static_cast<double>((exponent - least) << bits)};
}

double NormError::WholeGaps(double place) const {
  return IsFloat8(kind_) ? whole_gaps_[static_cast<size_t>(place)] : place * 2 * std::pow(0.5, norm_ + 1) / (norm_ + 1);
}

double NormError::Error(const BinModel::Side& side, double step, int64_t levels) const {
  const double inverse = 1 / step, top = static_cast<double>(levels), gap = WholeGaps(1);
  const bool float8 = IsFloat8(kind_);
  // In steps: the integral of |distance|^norm from zero to y.
  double last_y = 0, last_integral = 0;
  const auto integral = [&](double y) {
    if (y == last_y) return last_integral;
    const Rounded rounded = Round(y, top);
    const double distance = y - rounded.number, magnitude = std::abs(distance);
    const double part = std::pow(magnitude, norm_ + 1) / (norm_ + 1);
    last_y = y;
    last_integral = (float8 ? WholeGaps(rounded.place) : rounded.place * gap) + std::copysign(part, distance);
    return last_integral;
  };
  const auto point = [&](double y) { return std::pow(std::abs(y - Round(y, top).number), norm_); };
  double error = 0;
  for (const BinModel::Bin& bin : side.bins()) {
    const double begin = bin.begin * inverse, end = bin.end * inverse;
    if (bin.at_end > 0) error += bin.at_end * point(end);
    if (bin.begin == bin.end) continue;
    if (bin.at_begin > 0) error += bin.at_begin * point(begin);
    const double before = integral(begin);
    error += (bin.mass - bin.at_begin - bin.at_end) * (integral(end) - before) / (end - begin);
  }
  return error * std::pow(step / unit_, norm_);
}

double NormError::Sum(const BinModel::Side& side) const {
  return side.greatest() > 0 ? NormError(CodeKind::kInteger, norm_, unit_).Error(side, side.greatest(), 0) : 0;
}

}  // namespace calib
