#ifndef CALIB_CLIENT_CLI_SYNCHRONOUS_VIEW_H_
#define CALIB_CLIENT_CLI_SYNCHRONOUS_VIEW_H_

#include <string>

#include "calib/v1/session.pb.h"

namespace calib::cli {

// "rank 3", "ranks 0, 3, 5 and 12 more": those that the lowest open step waits for, 8 at most by name; empty when none.
std::string MissingRanks(const v1::SynchronousStatus& status);

// Where the steps are, what is waited for, and what went wrong so far: one or two lines, each with its newline.
std::string SynchronousText(const v1::SynchronousStatus& status);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_SYNCHRONOUS_VIEW_H_
