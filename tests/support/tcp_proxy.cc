#include "tests/support/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

namespace calib::test {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

void Require(bool done, const char* what) {
  if (done) return;
  std::perror(what);
  std::abort();
}

// Else the kernel keeps small messages back until the other side has acknowledged earlier ones, 40 ms at times.
void SendAtOnce(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Require(fd >= 0, "TcpProxy: socket");
  const sockaddr_in address = Loopback(port);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    SendAtOnce(fd);
    return fd;
  }
  close(fd);
  return -1;
}

bool SendAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

}  // namespace

// Sockets stay open until both threads are over, so that no number is used again while one of them may still use it.
struct TcpProxy::Connection {
  int client = -1;
  int server = -1;
  std::atomic<int> running{2};
  std::atomic<bool> cut{false};
  std::thread to_server;
  std::thread to_client;

  void Cut() {
    cut = true;
    shutdown(client, SHUT_RDWR);
    shutdown(server, SHUT_RDWR);
  }
  ~Connection() {
    to_server.join();
    to_client.join();
    close(client);
    close(server);
  }
};

TcpProxy::TcpProxy(int server_port) : server_port_(server_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Require(listener_ >= 0, "TcpProxy: socket");
  sockaddr_in address = Loopback(0);
  Require(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "TcpProxy: bind");
  Require(listen(listener_, 128) == 0, "TcpProxy: listen");
  socklen_t size = sizeof(address);
  Require(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0, "TcpProxy: getsockname");
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

TcpProxy::~TcpProxy() {
  stopping_ = true;
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  close(listener_);
  CutAll();
  connections_.clear();
}

std::string TcpProxy::address() const { return "127.0.0.1:" + std::to_string(port_); }

void TcpProxy::CutAll() {
  const std::lock_guard<std::mutex> lock(mutex_);
  CutAllLocked();
}

void TcpProxy::CutAllLocked() {
  for (const auto& connection : connections_) connection->Cut();
  changed_.notify_all();
}

void TcpProxy::SetAway(bool away) {
  const std::lock_guard<std::mutex> lock(mutex_);
  away_ = away;
  if (away) CutAllLocked();
}

void TcpProxy::CutAfter(uint64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cut_after_ = bytes;
}

void TcpProxy::SetDelay(std::chrono::milliseconds delay) {
  const std::lock_guard<std::mutex> lock(mutex_);
  delay_ = delay;
  changed_.notify_all();
}

void TcpProxy::Hold(const Connection& connection) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto since = std::chrono::steady_clock::now();
  const auto is_over = [&] { return connection.cut || std::chrono::steady_clock::now() >= since + delay_; };
  while (!is_over()) changed_.wait_until(lock, since + delay_);
}

bool TcpProxy::AwaitBytes(uint64_t bytes, std::chrono::milliseconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return bytes_to_server_ >= bytes; });
}

uint64_t TcpProxy::bytes_to_server() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return bytes_to_server_;
}

void TcpProxy::CountToServer(size_t size) {
  const std::lock_guard<std::mutex> lock(mutex_);
  bytes_to_server_ += size;
  changed_.notify_all();
}

size_t TcpProxy::Allowance(size_t size) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!cut_after_.has_value()) return size;
  const size_t allowed = std::min<uint64_t>(size, *cut_after_);
  *cut_after_ -= allowed;
  return allowed;
}

void TcpProxy::Accept() {
  while (!stopping_) {
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(connections_, [](const auto& connection) { return connection->running == 0; });
    const int server = away_ || stopping_ ? -1 : Connect(server_port_);
    if (server < 0) {
      close(client);
      ++refusals_;
      continue;
    }
    SendAtOnce(client);
    ++connections_made_;
    auto connection = std::make_unique<Connection>();
    Connection* const raw = connection.get();
    raw->client = client;
    raw->server = server;
    raw->to_server = std::thread([this, raw] { PassOn(raw->client, raw->server, true, raw); });
    raw->to_client = std::thread([this, raw] { PassOn(raw->server, raw->client, false, raw); });
    connections_.push_back(std::move(connection));
  }
}

void TcpProxy::PassOn(int from, int to, bool to_server, Connection* connection) {
  std::array<char, 65536> buffer;
  while (true) {
    const ssize_t received = recv(from, buffer.data(), buffer.size(), 0);
    if (received <= 0) break;
    const size_t size = static_cast<size_t>(received);
    Hold(*connection);
    const size_t allowed = to_server ? Allowance(size) : size;
    if (!SendAll(to, buffer.data(), allowed)) break;
    if (to_server) CountToServer(allowed);
    if (allowed < size) {
      const std::lock_guard<std::mutex> lock(mutex_);
      cut_after_.reset();
      CutAllLocked();
      break;
    }
  }
  connection->Cut();
  --connection->running;
}

}  // namespace calib::test
