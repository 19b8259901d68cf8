#include "client/cpp/status.h"

#include <gmock/gmock.h>
#include <grpcpp/support/status.h>
#include <gtest/gtest.h>

#include "proto/codec/error.h"

namespace calib::client {
namespace {

TEST(Status, SaysWhichServerCannotBeReached) {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection refused"), "host:1");
  EXPECT_EQ(status, absl::UnavailableError("cannot reach calibd at host:1: connection refused"));
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "Deadline Exceeded"), "host:1"),
            absl::DeadlineExceededError("no answer from calibd at host:1 in time"));
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK, "host:1").ok());
}

TEST(Status, KeepsTheServersWordsAndErrorInfo) {
  const absl::Status draining = MakeError(v1::ERROR_REASON_SERVER_DRAINING, "going away", {{"session", "s"}});
  const grpc::Status wire(grpc::StatusCode::UNAVAILABLE, "going away", EncodeStatusDetails(draining));
  const absl::Status status = FromGrpcStatus(wire, "host:1");
  EXPECT_EQ(status, draining);
  EXPECT_EQ(GetErrorInfo(status)->metadata().at("session"), "s");
}

TEST(Status, TakesCodesThatDoNotExistForUnknown) {
  EXPECT_TRUE(absl::IsUnknown(FromGrpcStatus(grpc::Status(static_cast<grpc::StatusCode>(99), "?"), "host:1")));
  v1::Refusal refusal;
  refusal.set_message("?");
  EXPECT_TRUE(absl::IsUnknown(FromRefusal(refusal)));
  refusal.set_code(-3);
  EXPECT_TRUE(absl::IsUnknown(FromRefusal(refusal)));
}

TEST(Status, RefusalsKeepTheirReason) {
  v1::Refusal refusal;
  refusal.set_code(9);
  refusal.set_message("no");
  refusal.mutable_info()->set_domain("calibd");
  refusal.mutable_info()->set_reason("CHANNEL_COUNT_CHANGED");
  const absl::Status status = FromRefusal(refusal);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(GetReason(status), v1::ERROR_REASON_CHANNEL_COUNT_CHANGED);
  EXPECT_EQ(MeaningOf(status), RefusalMeaning::kDataRefused);
}

TEST(Status, OnlySomeEndsOfAStreamEndTheWorker) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kUnavailable, absl::StatusCode::kResourceExhausted, absl::StatusCode::kDeadlineExceeded,
        absl::StatusCode::kCancelled, absl::StatusCode::kInternal, absl::StatusCode::kUnknown}) {
    EXPECT_TRUE(CanReopenAfter(absl::Status(code, "")));
  }
  EXPECT_TRUE(CanReopenAfter(absl::OkStatus()));
  for (const v1::ErrorReason reason :
       {v1::ERROR_REASON_WORKER_FENCED, v1::ERROR_REASON_SESSION_NOT_FOUND, v1::ERROR_REASON_SESSION_DELETED,
        v1::ERROR_REASON_INVALID_FIELD, v1::ERROR_REASON_STREAM_NOT_OPEN}) {
    EXPECT_FALSE(CanReopenAfter(MakeError(reason, ""))) << ReasonName(reason);
  }
  EXPECT_FALSE(CanReopenAfter(absl::UnauthenticatedError("")));
  EXPECT_FALSE(CanReopenAfter(absl::PermissionDeniedError("")));
}

}  // namespace
}  // namespace calib::client
