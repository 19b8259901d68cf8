#include "server/export/number_text.h"

#include <charconv>

namespace calib::server {
namespace {

template <typename Real>
std::string Shortest(Real value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

}  // namespace

std::string NumberText(float value) { return Shortest(value); }

std::string NumberText(double value) { return Shortest(value); }

}  // namespace calib::server
