#include "client/cli/push_sync.h"

#include <iostream>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/format.h"
#include "client/cli/json_output.h"
#include "client/cli/progress_bar.h"
#include "client/cli/sync_push_run.h"

namespace calib::cli {
namespace {

// Threads and connections of a process.
constexpr uint32_t kMostOwnRanks = 256;
constexpr absl::Duration kBarInterval = absl::Milliseconds(100);

void PrintTotals(const Context& context, const SyncPush& push, const SyncPushOptions& options, uint64_t steps,
                 const SyncPushRun::Totals& totals, size_t layers, double seconds) {
  if (context.options.json) {
    Json json = {{"session", options.session}, {"layers", layers}, {"steps", steps}, {"ranks", options.ranks}};
    json["rank"] = push.rank.has_value() ? Json(*push.rank) : Json(nullptr);
    json["first_step"] = totals.first_step == 0 ? Json(nullptr) : Json(totals.first_step);
    json["last_step"] = totals.last_step == 0 ? Json(nullptr) : Json(totals.last_step);
    json["values"] = totals.values;
    json["bytes"] = totals.bytes;
    json["bytes_sent"] = totals.bytes_sent;
    json["not_counted"] = totals.not_counted;
    json["reconnections"] = totals.reconnections;
    json["seconds"] = seconds;
    std::cout << ToLine(json) << '\n';
    return;
  }
  if (totals.first_step == 0) {
    std::cout << "nothing to push: session " << options.session << " has folded step " << steps
              << ", the last of these files, already\n";
    return;
  }
  const std::string as = push.rank.has_value() ? absl::StrCat("rank ", *push.rank, " of ", options.ranks)
                         : options.ranks == 1  ? "1 rank"
                                               : absl::StrCat(options.ranks, " ranks");
  std::cout << absl::StrFormat(
      "pushed %s values (%s) of %d %s in steps %d to %d of %d as %s in %.2f s, %s sent; all "
      "durable\n",
      FormatCount(totals.values), FormatBytes(static_cast<double>(totals.bytes)), layers,
      layers == 1 ? "layer" : "layers", totals.first_step, totals.last_step, steps, as, seconds,
      FormatBytes(static_cast<double>(totals.bytes_sent)));
  if (totals.not_counted > 0) {
    std::cout << totals.not_counted << " contributions came after their step was closed and were not counted\n";
  }
}

}  // namespace

absl::Status CheckSyncPush(const SyncPush& push, const v1::Session& session) {
  if (!session.has_synchronous()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", session.name(),
                     "' has no synchronous steps: push without --sync, or create one with ", "--world-size"));
  }
  const uint32_t size = session.synchronous().world().size();
  if (push.ranks.value_or(size) != size) {
    return absl::FailedPreconditionError(
        absl::StrCat("the world of session '", session.name(), "' has ", size, size == 1 ? " rank" : " ranks", ", not ",
                     *push.ranks, ": push with --ranks ", size, ", or change it by calibctl session set-world ",
                     session.name(), " --world-size ", *push.ranks));
  }
  if (!push.rank.has_value() && size > kMostOwnRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("the world of session '", session.name(), "' has ", size,
                     " ranks, too many for one process: push with --rank, a process each"));
  }
  if (push.rank.value_or(0) >= size) {
    return absl::InvalidArgumentError(absl::StrCat("the world of session '", session.name(), "' has no rank ",
                                                   *push.rank, ": its ranks are 0 to ", size - 1));
  }
  return absl::OkStatus();
}

absl::Status PushSynchronously(const Context& context, const SyncPush& push, const v1::Session& session,
                               absl::Span<const PushSource> sources) {
  const absl::Time start = absl::Now();
  SyncPushOptions options;
  options.session = session.name();
  options.ranks = session.synchronous().world().size();
  options.timeout = context.options.timeout();
  if (push.rank.has_value()) {
    options.own_ranks = {*push.rank};
  } else {
    options.own_ranks.resize(options.ranks);
    std::iota(options.own_ranks.begin(), options.own_ranks.end(), 0);
  }
  SyncPushRun run(context.client.options(), options, sources);
  context.interrupts.OnInterrupt([&run] { run.Stop(); });
  {
    ProgressBar bar(run.total_bytes());
    while (!run.WaitDone(kBarInterval)) bar.Update(run.done_bytes());
  }
  context.interrupts.OnInterrupt(nullptr);
  const absl::Status status = run.status();
  if (!status.ok()) return Annotate(status, absl::StrCat("push to session '", session.name(), "'"));
  const SyncPushRun::Totals totals = run.totals();
  if (context.interrupts.interrupted()) {
    return absl::CancelledError(
        absl::StrCat("interrupted after step ", totals.last_step, " of ", run.steps(), "; push again to go on"));
  }
  PrintTotals(context, push, options, run.steps(), totals, sources.size(), absl::ToDoubleSeconds(absl::Now() - start));
  return absl::OkStatus();
}

}  // namespace calib::cli
