#ifndef CALIB_CLIENT_CLI_PUSH_SYNC_H_
#define CALIB_CLIENT_CLI_PUSH_SYNC_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "calib/v1/session.pb.h"
#include "client/cli/command.h"
#include "client/cli/push_plan.h"

namespace calib::cli {

// A push as ranks of synchronous steps: step i of the files, from 0 on, is the session's step i + 1.
struct SyncPush {
  std::optional<uint32_t> ranks;  // unset: as many as the session's world has
  std::optional<uint32_t> rank;   // unset: all of them, a thread each
};

// What of it can't be, given the session: FAILED_PRECONDITION when it has no synchronous steps or another number of
// ranks, INVALID_ARGUMENT when the rank is none of them, or when all of them are too many for a process (256).
absl::Status CheckSyncPush(const SyncPush& push, const v1::Session& session);

// Pushes and prints what was done. `session` is as it was before.
absl::Status PushSynchronously(const Context& context, const SyncPush& push, const v1::Session& session,
                               absl::Span<const PushSource> sources);

}  // namespace calib::cli

#endif  // CALIB_CLIENT_CLI_PUSH_SYNC_H_
