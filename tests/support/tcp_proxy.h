#ifndef CALIB_TESTS_SUPPORT_TCP_PROXY_H_
#define CALIB_TESTS_SUPPORT_TCP_PROXY_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace calib::test {

// A TCP proxy on the loopback interface that can be made to fail: everything that goes to its port is passed on to a
// server's port until it cuts. Thread-safe. Aborts the test program when it cannot open sockets.
class TcpProxy {
 public:
  // Listens on a free port of 127.0.0.1 and passes on to `server_port` of 127.0.0.1.
  explicit TcpProxy(int server_port);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  int port() const { return port_; }
  // "127.0.0.1:PORT"
  std::string address() const;

  // Where new connections go: for a server that came back on another port.
  void SetServerPort(int server_port) { server_port_ = server_port; }
  // Cuts all connections, in both directions at once, wherever they are in a message. New ones are taken.
  void CutAll();
  // Away: cuts all connections and every new one. Else takes new ones.
  void SetAway(bool away);
  // Cuts all connections once `bytes` more bytes went to the server: exactly so many arrive. Happens once.
  void CutAfter(uint64_t bytes);

  // Holds what it receives, in both directions, for so long before it passes it on: once for up to 64 KiB.
  void SetDelay(std::chrono::milliseconds delay);

  // Waits until `bytes` went to the server in all; false after `timeout`.
  bool AwaitBytes(uint64_t bytes, std::chrono::milliseconds timeout);
  uint64_t bytes_to_server() const;

  // Connections that were passed on so far.
  int connections() const { return connections_made_; }
  // Connections that were cut at once: while away, or because the server's port could not be reached.
  int refusals() const { return refusals_; }

 private:
  struct Connection;

  void Accept();
  void CutAllLocked();
  void PassOn(int from, int to, bool to_server, Connection* connection);
  // Bytes of `size` that may go to the server before the cut.
  size_t Allowance(size_t size);
  void Hold(const Connection& connection);
  void CountToServer(size_t size);

  int listener_ = -1;
  int port_ = 0;
  std::atomic<int> server_port_;
  std::atomic<bool> away_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_made_{0};
  std::atomic<int> refusals_{0};

  mutable std::mutex mutex_;
  std::condition_variable changed_;                     // the delay; connections; bytes that went to the server
  std::list<std::unique_ptr<Connection>> connections_;  // guarded by mutex_
  std::optional<uint64_t> cut_after_;                   // guarded by mutex_
  std::chrono::milliseconds delay_{0};                  // guarded by mutex_
  uint64_t bytes_to_server_ = 0;                        // guarded by mutex_

  std::thread acceptor_;
};

}  // namespace calib::test

#endif  // CALIB_TESTS_SUPPORT_TCP_PROXY_H_
