#ifndef CALIB_SERVER_EXPORT_NUMBER_TEXT_H_
#define CALIB_SERVER_EXPORT_NUMBER_TEXT_H_

#include <string>

namespace calib::server {

// The fewest digits that read back as the same number, in no locale. REQUIRES: finite.
std::string NumberText(float value);
std::string NumberText(double value);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_NUMBER_TEXT_H_
