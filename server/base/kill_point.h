#ifndef CALIB_SERVER_BASE_KILL_POINT_H_
#define CALIB_SERVER_BASE_KILL_POINT_H_

#include <array>

namespace calib::server {

// Places in the write path at which a test can stop or kill the server.
//
// ReachKillPoint does nothing. The program calibd_kill_points, which tests build, links another definition of it
// (tests/support/kill_point_env.cc), which looks at the environment variable CALIBD_KILL_POINT.
void ReachKillPoint(const char* name);

namespace kill_points {

// An update is checked and about to be applied; is applied.
inline constexpr char kApplyBegin[] = "apply.begin";
inline constexpr char kApplyEnd[] = "apply.end";
// A checkpoint is about to begin; holds its cuts; the store has committed them; streams are told.
inline constexpr char kCheckpointBegin[] = "checkpoint.begin";
inline constexpr char kCheckpointCut[] = "checkpoint.cut";
inline constexpr char kCheckpointCommitted[] = "checkpoint.committed";
inline constexpr char kCheckpointEnd[] = "checkpoint.end";
// A commit of the RocksDB store: its batch is made; is written and synced; is marked as acknowledged.
inline constexpr char kCommitBegin[] = "commit.begin";
inline constexpr char kCommitWritten[] = "commit.written";
inline constexpr char kCommitMarked[] = "commit.marked";
// A session is about to be deleted; is gone from the store.
inline constexpr char kDeleteBegin[] = "delete.begin";
inline constexpr char kDeleteEnd[] = "delete.end";
// The store is open and the new epoch is not written; is written.
inline constexpr char kOpenBegin[] = "open.begin";
inline constexpr char kOpenEnd[] = "open.end";

inline constexpr std::array kAll = {
    kApplyBegin,    kApplyEnd,     kCheckpointBegin, kCheckpointCut, kCheckpointCommitted, kCheckpointEnd, kCommitBegin,
    kCommitWritten, kCommitMarked, kDeleteBegin,     kDeleteEnd,     kOpenBegin,           kOpenEnd};

}  // namespace kill_points
}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_KILL_POINT_H_
