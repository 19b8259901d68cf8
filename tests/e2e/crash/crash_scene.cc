#include "tests/e2e/crash/crash_scene.h"

#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace calib::test {
namespace {

constexpr int kNoPort = 1;  // refuses connections
constexpr absl::Duration kLongestWait = absl::Minutes(2);

client::ClientOptions CallsTo(const std::string& address) {
  client::ClientOptions options;
  options.server = address;
  options.call_timeout = kLongestWait;
  return options;
}

// Python takes a second or so to start, and there is one process for each worker.
int NumberOfWorkers(int otherwise) {
  const char* const value = std::getenv("CALIB_CRASH_WORKERS");
  int number = 0;
  return value != nullptr && absl::SimpleAtoi(value, &number) ? std::min(number, otherwise) : otherwise;
}

CrashSceneOptions WithinEnvironment(CrashSceneOptions options) {
  options.workers = NumberOfWorkers(options.workers);
  return options;
}

}  // namespace

CrashScene::CrashScene(const CrashSceneOptions& options)
    : options_(WithinEnvironment(options)),
      store_(options.store.empty() ? folder_.path() + "/store" : options.store),
      proxy_(kNoPort),
      client_(std::make_unique<client::Client>(CallsTo(proxy_.address()))),
      workers_(static_cast<size_t>(options_.workers)) {}

std::vector<std::string> CrashScene::ServerCommand(const std::vector<std::string>& options) const {
  std::vector<std::string> command = {CALIB_BIN_DIR "/calibd_kill_points", "--listen", "127.0.0.1:0", "--store",
                                      "rocksdb:" + store_};
  const std::vector<std::string>& more =
      options.empty() ? std::vector<std::string>{"--http", "", "--checkpoint-interval", "20ms"} : options;
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

void CrashScene::StartServer(const std::string& kill_point, const std::vector<std::string>& options) {
  server_ = std::make_unique<Process>(ServerCommand(options),
                                      std::vector<std::string>{absl::StrCat("CALIBD_KILL_POINT=", kill_point)});
  server_address_ = server_->WaitForAddress("grpc");
  proxy_.SetServerPort(std::stoi(server_address_.substr(server_address_.rfind(':') + 1)));
}

void CrashScene::AwaitServerKill() {
  const ProcessResult result = server_->Wait(kLongestWait);
  EXPECT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
  proxy_.SetServerPort(kNoPort);  // which another test's server may get
}

void CrashScene::KillServer() {
  server_->Signal(SIGKILL);
  AwaitServerKill();
}

void CrashScene::RestartAndCheck(const std::string& kill_point, const std::vector<std::string>& options) {
  // What was acknowledged before this, and what was begun until the state is read.
  proxy_.SetAway(true);
  const std::vector<uint64_t> durable = Durable();
  StartServer(kill_point, options);
  const absl::StatusOr<ServerState> state = ReadServer();
  const std::vector<uint64_t> begun = Begun();
  proxy_.SetAway(false);
  if (!created_ && absl::IsNotFound(state.status())) return;
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_TRUE(Within(SumOfSteps(options_.seed, durable), state->layers, SumOfSteps(options_.seed, begun)));
  if (options_.flush_every != 1) return;
  // Units are steps: the watermarks name the sum.
  std::vector<uint64_t> applied;
  for (int worker = 0; worker < options_.workers; ++worker) {
    const auto found = state->workers.find(WorkerId(worker));
    const ServerState::Watermarks marks = found == state->workers.end() ? ServerState::Watermarks() : found->second;
    const size_t w = static_cast<size_t>(worker);
    EXPECT_LE(durable[w], marks.durable) << WorkerId(worker);
    EXPECT_EQ(marks.durable, marks.applied) << WorkerId(worker);
    EXPECT_LE(marks.applied, begun[w]) << WorkerId(worker);
    applied.push_back(marks.applied);
  }
  EXPECT_TRUE(SameStatistics(SumOfSteps(options_.seed, applied), state->layers));
}

void CrashScene::CreateSession() {
  v1::CreateSessionRequest request;
  request.set_session(kSession);
  *request.mutable_config() = WorkConfig();
  const auto response = client_->CreateSession(request);
  ASSERT_TRUE(response.ok()) << response.status();
  created_ = true;
}

absl::StatusOr<ServerState> CrashScene::ReadServer() {
  client::Client direct(CallsTo(server_address_));
  return ReadServerState(&direct, kSession);
}

std::string CrashScene::LogPath(int worker) const { return absl::StrCat(folder_.path(), "/", WorkerId(worker)); }

std::vector<std::string> CrashScene::WorkerCommand(int worker, const std::string& log) const {
  const char* const program = std::getenv("CALIB_CRASH_WORKER");
  std::vector<std::string> command = program == nullptr
                                         ? std::vector<std::string>{CALIB_BIN_DIR "/crash_worker"}
                                         : std::vector<std::string>(absl::StrSplit(program, ' ', absl::SkipEmpty()));
  for (const auto& [option, value] :
       {std::pair("--server", proxy_.address()), std::pair("--session", std::string(kSession)), std::pair("--log", log),
        std::pair("--worker", absl::StrCat(worker)), std::pair("--seed", absl::StrCat(options_.seed)),
        std::pair("--steps", absl::StrCat(options_.steps)),
        std::pair("--flush-every", absl::StrCat(options_.flush_every))}) {
    command.push_back(option);
    command.push_back(value);
  }
  return command;
}

void CrashScene::StartWorker(int worker) {
  workers_[static_cast<size_t>(worker)] = std::make_unique<Process>(WorkerCommand(worker, LogPath(worker)));
}

void CrashScene::StartWorkers() {
  for (int worker = 0; worker < options_.workers; ++worker) StartWorker(worker);
}

bool CrashScene::AwaitDurable(int worker, uint64_t step) {
  if (Log(worker).durable >= step) return true;
  return this->worker(worker).WaitForOutput(absl::StrCat("durable ", step, "\n"), kLongestWait);
}

std::vector<uint64_t> CrashScene::Begun() const {
  std::vector<uint64_t> steps;
  for (int worker = 0; worker < options_.workers; ++worker) steps.push_back(Log(worker).begun);
  return steps;
}

std::vector<uint64_t> CrashScene::Durable() const {
  std::vector<uint64_t> steps;
  for (int worker = 0; worker < options_.workers; ++worker) {
    const WorkerLog log = Log(worker);
    steps.push_back(log.done ? options_.steps : log.durable);
  }
  return steps;
}

void CrashScene::AwaitWorkers() {
  for (int number = 0; number < options_.workers; ++number) {
    const ProcessResult result = worker(number).Wait(kLongestWait);
    EXPECT_EQ(result.exit_code, 0) << WorkerId(number) << ": " << result.err;
    EXPECT_TRUE(Log(number).done) << WorkerId(number);
  }
}

void CrashScene::CheckAll() {
  const absl::StatusOr<ServerState> state = ReadServer();
  ASSERT_TRUE(state.ok()) << state.status();
  const std::vector<uint64_t> all(static_cast<size_t>(options_.workers), options_.steps);
  EXPECT_TRUE(SameStatistics(SumOfSteps(options_.seed, all), state->layers));
}

void CrashScene::Finish() {
  AwaitWorkers();
  CheckAll();
  KillServer();
  RestartAndCheck();
  CheckAll();
}

}  // namespace calib::test
