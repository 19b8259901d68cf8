#include "server/export/amplitude.h"

#include <algorithm>

namespace calib::server {
namespace {

constexpr float kCodes = 127;

// The magnitude that the method chose, in float32, as far as it is what the scale was made of: presets have other
// divisors, and lower limits.
float ChosenAmplitude(const v1::LayerQParams& qparams, int channel, float divisor) {
  const auto amplitude = static_cast<float>(std::max(-qparams.clip_min(channel), qparams.clip_max(channel)));
  return amplitude / divisor == qparams.scale(channel) ? amplitude : 0;
}

}  // namespace

float AmplitudeOf(const v1::LayerQParams& qparams) {
  const float chosen = ChosenAmplitude(qparams, 0, kCodes);
  return chosen > 0 ? chosen : qparams.scale(0) * kCodes;
}

float MultiplierOf(const v1::LayerQParams& qparams, int channel) {
  const auto qmax = static_cast<float>(qparams.qmax());
  const float chosen = ChosenAmplitude(qparams, channel, qmax);
  return chosen > 0 ? qmax / chosen : 1 / qparams.scale(channel);
}

}  // namespace calib::server
