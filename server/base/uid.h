#ifndef CALIB_SERVER_BASE_UID_H_
#define CALIB_SERVER_BASE_UID_H_

#include <string>

namespace calib::server {

// 32 hexadecimal digits that nobody else has: 128 random bits of the system.
std::string RandomUid();

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_UID_H_
