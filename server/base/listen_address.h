#ifndef CALIB_SERVER_BASE_LISTEN_ADDRESS_H_
#define CALIB_SERVER_BASE_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace calib::server {

// Where a server listens.
struct ListenAddress {
  std::string host;  // a name or an address; IPv6 without its brackets
  int port = 0;      // 0: any free one

  // "127.0.0.1:7070", "[::1]:7070".
  std::string ToString() const;
};

// HOST:PORT, an IPv6 address in brackets. INVALID_ARGUMENT says what is wrong.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

// Whether only this machine can connect: localhost, 127.0.0.0/8, ::1. No look-ups.
bool IsLoopback(const ListenAddress& address);

// Binds the address for a moment, to find out why one could not listen there. UNAVAILABLE: "cannot listen on
// 127.0.0.1:7070: address already in use".
absl::Status CheckListenable(const ListenAddress& address);

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_LISTEN_ADDRESS_H_
