#include "server/web/http_server.h"

#include <httplib.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace calib::server {
namespace {

constexpr int kThreads = 2;
constexpr int kTimeoutSeconds = 5;

}  // namespace

struct HttpServer::Impl {
  httplib::Server server;
  std::thread thread;
};

HttpServer::HttpServer() : impl_(std::make_unique<Impl>()) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const ListenAddress& listen, Handlers handlers) {
  // httplib doesn't tell why it can't listen, so this asks first.
  const absl::Status listenable = CheckListenable(listen);
  if (!listenable.ok()) return listenable;

  std::unique_ptr<HttpServer> http(new HttpServer());
  httplib::Server& server = http->impl_->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // A thread belongs to its connection, so none may hold one for long.
  server.set_keep_alive_max_count(1);
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  server.set_payload_max_length(1 << 16);
  // httplib's own options would let a second server share the port.
  server.set_socket_options([](socket_t socket) {
    const int on = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  server.Get("/metrics", [metrics = std::move(handlers.metrics)](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/healthz",
             [](const httplib::Request&, httplib::Response& response) { response.set_content("ok\n", "text/plain"); });
  server.Get("/readyz", [ready = std::move(handlers.ready)](const httplib::Request&, httplib::Response& response) {
    const absl::Status status = ready();
    response.status = status.ok() ? 200 : 503;
    response.set_content(status.ok() ? "ok\n" : absl::StrCat(std::string(status.message()), "\n"), "text/plain");
  });

  http->address_ = listen;
  if (listen.port == 0) {
    http->address_.port = server.bind_to_any_port(listen.host);
  } else if (!server.bind_to_port(listen.host, listen.port)) {
    http->address_.port = -1;
  }
  if (http->address_.port <= 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", listen.ToString()));
  http->impl_->thread = std::thread([&server] { server.listen_after_bind(); });
  // stop() does nothing before the thread has got this far.
  while (!server.is_running()) std::this_thread::yield();
  return http;
}

HttpServer::~HttpServer() {
  if (!impl_->thread.joinable()) return;
  impl_->server.stop();
  impl_->thread.join();
}

}  // namespace calib::server
