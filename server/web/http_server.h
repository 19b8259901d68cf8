#ifndef CALIB_SERVER_WEB_HTTP_SERVER_H_
#define CALIB_SERVER_WEB_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/listen_address.h"

namespace calib::server {

// The HTTP port for operators, on two threads:
//   /metrics  what `metrics` returns, in Prometheus' text format
//   /healthz  200 while the process lives
//   /readyz   200 while `ready` is OK, else 503 with its message
class HttpServer {
 public:
  struct Handlers {
    std::function<std::string()> metrics;
    std::function<absl::Status()> ready;
  };

  // Listens. The handlers are called from several threads. UNAVAILABLE: the address can't be listened on, and why.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const ListenAddress& listen, Handlers handlers);
  // Stops.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Where it listens: the port is the chosen one if 0 was asked for.
  const ListenAddress& address() const { return address_; }

 private:
  struct Impl;  // keeps httplib.h out of here
  HttpServer();

  ListenAddress address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace calib::server

#endif  // CALIB_SERVER_WEB_HTTP_SERVER_H_
