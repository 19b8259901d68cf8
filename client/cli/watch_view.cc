#include "client/cli/watch_view.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/cli/format.h"
#include "client/cli/qparams_table.h"
#include "client/cli/synchronous_view.h"
#include "client/cli/table.h"

namespace calib::cli {
namespace {

constexpr char kHomeAndClear[] = "\x1b[H\x1b[2J";
constexpr int kWorkersShown = 8;

struct TerminalSize {
  size_t lines = 24;
  size_t columns = 80;
};

TerminalSize GetTerminalSize() {
  struct winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) return {};
  return {size.ws_row, size.ws_col};
}

// The first `columns` code points.
std::string CutLine(absl::string_view line, size_t columns) {
  size_t seen = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if ((line[i] & 0xc0) != 0x80 && seen++ == columns) return std::string(line.substr(0, i));
  }
  return std::string(line);
}

// Updates of a worker that are applied and not durable yet.
uint64_t Lag(const v1::WorkerStatus& worker) { return worker.applied() - std::min(worker.applied(), worker.durable()); }

std::string WorkersTable(const v1::WatchQParamsResponse& state) {
  std::vector<const v1::WorkerStatus*> workers;
  for (const v1::WorkerStatus& worker : state.worker()) workers.push_back(&worker);
  // Those that need attention first.
  std::stable_sort(workers.begin(), workers.end(), [](const v1::WorkerStatus* a, const v1::WorkerStatus* b) {
    return std::pair(!a->connected(), Lag(*a)) > std::pair(!b->connected(), Lag(*b));
  });
  std::vector<Table::Column> columns = {
      {"WORKER", Table::Align::kLeft}, {"STATE", Table::Align::kLeft}, {"APPLIED"}, {"DURABLE"}, {"LAG"}};
  const bool synchronous = state.session().has_synchronous();
  if (synchronous) columns.insert(columns.end(), {{"RANK"}, {"STEP"}});
  Table table(columns);
  for (size_t i = 0; i < workers.size() && i < kWorkersShown; ++i) {
    const v1::WorkerStatus& worker = *workers[i];
    std::vector<std::string> cells = {worker.worker_id(), worker.connected() ? "connected" : "away",
                                      absl::StrCat(worker.applied()), absl::StrCat(worker.durable()),
                                      absl::StrCat(Lag(worker))};
    if (synchronous) {
      cells.push_back(worker.has_rank() ? absl::StrCat(worker.rank()) : "-");
      cells.push_back(worker.has_rank() ? absl::StrCat(worker.step()) : "-");
    }
    table.AddRow(std::move(cells));
  }
  std::string text = table.ToString();
  if (workers.size() > kWorkersShown) absl::StrAppend(&text, "... ", workers.size() - kWorkersShown, " more workers\n");
  return text;
}

// WatchLine without the synchronous steps.
std::string SessionLine(const v1::WatchQParamsResponse& state) {
  const v1::Session& session = state.session();
  uint64_t lag = 0;
  for (const v1::WorkerStatus& worker : state.worker()) lag += Lag(worker);
  const auto connected = std::count_if(state.worker().begin(), state.worker().end(),
                                       [](const v1::WorkerStatus& worker) { return worker.connected(); });
  return absl::StrCat(session.name(), ": ", session.sealed() ? "sealed" : "open", ", ", FormatCount(session.values()),
                      " values, ", session.updates_applied(), " updates (", lag, " not durable yet), ",
                      session.layer_count(), " layers, ", connected, " of ", session.worker_count(),
                      " workers connected");
}

}  // namespace

std::string WatchLine(const v1::WatchQParamsResponse& state) {
  std::string line = SessionLine(state);
  if (!state.session().has_synchronous()) return line;
  std::string steps = SynchronousText(state.session().synchronous());
  steps.pop_back();
  absl::StrReplaceAll({{"\n", "; "}}, &steps);
  return absl::StrCat(line, "; ", steps);
}

void WatchView::Update(const v1::WatchQParamsResponse& state) {
  state_ = state;
  for (const v1::LayerQParams& layer : state.layer()) layers_[layer.layer()] = layer;
}

std::string WatchView::Screen() const {
  std::vector<v1::LayerQParams> layers;
  for (const auto& [name, layer] : layers_) layers.push_back(layer);
  std::string text = absl::StrCat(SessionLine(state_), "\n");
  if (state_.session().has_synchronous()) text += SynchronousText(state_.session().synchronous());
  text += "\n";
  if (state_.worker_size() > 0) absl::StrAppend(&text, WorkersTable(state_), "\n");
  if (!layers.empty()) text += QParamsTable(layers);

  const TerminalSize size = GetTerminalSize();
  const std::vector<absl::string_view> all = absl::StrSplit(absl::string_view(text).substr(0, text.size() - 1), '\n');
  std::vector<std::string> lines;
  // The last line stays free for the cursor.
  const bool fits = all.size() < size.lines;
  const size_t shown = fits ? all.size() : std::max<size_t>(size.lines, 3) - 2;
  for (size_t i = 0; i < shown; ++i) lines.push_back(CutLine(all[i], size.columns));
  if (!fits) lines.push_back(absl::StrCat("... ", all.size() - shown, " more lines"));
  return absl::StrCat(kHomeAndClear, absl::StrJoin(lines, "\n"), "\n");
}

}  // namespace calib::cli
