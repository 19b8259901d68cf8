#include "client/cli/synchronous_view.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/time_util.h"

namespace calib::cli {
namespace {

constexpr size_t kRanksNamed = 8;

}  // namespace

std::string MissingRanks(const v1::SynchronousStatus& status) {
  if (status.missing_ranks() == 0) return "";
  std::vector<uint32_t> named(status.missing_rank().begin(), status.missing_rank().end());
  named.resize(std::min(named.size(), kRanksNamed));
  const uint64_t more = status.missing_ranks() - std::min<uint64_t>(status.missing_ranks(), named.size());
  return absl::StrCat(status.missing_ranks() == 1 ? "rank " : "ranks ", absl::StrJoin(named, ", "),
                      more > 0 ? absl::StrCat(" and ", more, " more") : "");
}

std::string SynchronousText(const v1::SynchronousStatus& status) {
  const uint32_t size = status.world().size();
  std::string text = absl::StrCat(size, size == 1 ? " rank" : " ranks", " (world epoch ", status.world().epoch(),
                                  "), step ", status.folded_step(), " folded, ", status.durable_step(), " durable");
  if (status.open_steps() > 0) absl::StrAppend(&text, ", ", status.open_steps(), " open");
  if (const std::string missing = MissingRanks(status); !missing.empty()) {
    const double seconds =
        static_cast<double>(google::protobuf::util::TimeUtil::DurationToMilliseconds(status.open_for())) / 1000;
    absl::StrAppendFormat(&text, "; step %d has waited %.1f s for %s", status.folded_step() + 1, seconds, missing);
  }
  text += '\n';
  std::vector<std::string> incidents;
  const auto add = [&](uint64_t count, const char* thing, const char* fate) {
    if (count > 0) incidents.push_back(absl::StrCat(count, " ", thing, count == 1 ? " " : "s ", fate));
  };
  add(status.partial_steps(), "step", "closed without some rank");
  add(status.failed_steps(), "step", "failed");
  add(status.late_contributions(), "contribution", "late");
  add(status.repeated_contributions(), "contribution", "repeated");
  if (!incidents.empty()) absl::StrAppend(&text, absl::StrJoin(incidents, ", "), "\n");
  return text;
}

}  // namespace calib::cli
