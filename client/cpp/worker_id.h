#ifndef CALIB_CLIENT_CPP_WORKER_ID_H_
#define CALIB_CLIENT_CPP_WORKER_ID_H_

#include <string>

namespace calib::client {

// A random UUID, version 4 of RFC 4122: the id of a worker that was given none.
std::string MakeWorkerId();

}  // namespace calib::client

#endif  // CALIB_CLIENT_CPP_WORKER_ID_H_
