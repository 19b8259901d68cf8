#include "proto/codec/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <set>
#include <string>

#include "google/protobuf/stubs/logging.h"

namespace calib {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// What google.rpc.Status{11, "gap", [ErrorInfo{"SEQUENCE_GAP", "calibd", {"expected": "7"}}]} serializes to with the
// stock messages.
const std::string& StockDetails() {
  static const std::string* const bytes = new std::string(
      "\x08\x0b\x12\x03gap\x1aQ\n(type.googleapis.com/google.rpc.ErrorInfo\x12%\n\x0cSEQUENCE_GAP\x12\x06"
      "calibd\x1a\r\n\x08"
      "expected\x12\x01"
      "7");
  return *bytes;
}

absl::Status Gap() { return MakeError(v1::ERROR_REASON_SEQUENCE_GAP, "gap", {{"expected", "7"}}); }

TEST(ErrorTest, EveryReasonHasACodeAndAName) {
  const google::protobuf::EnumDescriptor* const reasons = v1::ErrorReason_descriptor();
  std::set<std::string> names;
  for (int i = 0; i < reasons->value_count(); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(reasons->value(i)->number());
    const absl::StatusCode code = CodeOfReason(reason);
    EXPECT_NE(code, absl::StatusCode::kOk) << reasons->value(i)->name();
    EXPECT_LE(static_cast<int>(code), static_cast<int>(absl::StatusCode::kUnauthenticated))
        << reasons->value(i)->name();
    EXPECT_EQ("ERROR_REASON_" + ReasonName(reason), reasons->value(i)->name());
    EXPECT_TRUE(names.insert(ReasonName(reason)).second);

    const absl::Status status = MakeError(reason, "what was wrong");
    EXPECT_EQ(status.code(), code);
    EXPECT_EQ(GetReason(status), reason);
  }
  EXPECT_GT(names.size(), 20u);
}

TEST(ErrorTest, CodesAreThoseOfTheTable) {
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_UNSPECIFIED), absl::StatusCode::kUnknown);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_INVALID_FIELD), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_SESSION_NOT_FOUND), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_SESSION_CONFIG_MISMATCH), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_WORKER_FENCED), absl::StatusCode::kAborted);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_SEQUENCE_GAP), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_LIMIT_EXCEEDED), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(CodeOfReason(v1::ERROR_REASON_STORE_FAILED), absl::StatusCode::kUnavailable);
  EXPECT_EQ(CodeOfReason(static_cast<v1::ErrorReason>(123456)), absl::StatusCode::kUnknown);
  EXPECT_EQ(ReasonName(static_cast<v1::ErrorReason>(123456)), "");
}

TEST(ErrorTest, CarriesMessageReasonAndMetadata) {
  const absl::Status status =
      MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, "too many layers", {{"option", "--max_layers"}, {"limit", "100"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "too many layers");
  const std::optional<v1::ErrorInfo> info = GetErrorInfo(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "LIMIT_EXCEEDED");
  EXPECT_EQ(info->domain(), "calibd");
  EXPECT_THAT(info->metadata(), UnorderedElementsAre(Pair("option", "--max_layers"), Pair("limit", "100")));
  EXPECT_EQ(status, MakeError(v1::ERROR_REASON_LIMIT_EXCEEDED, absl::InternalError("too many layers"),
                              {{"limit", "100"}, {"option", "--max_layers"}}));
}

TEST(ErrorTest, StatusesOfOthersHaveNoReason) {
  EXPECT_FALSE(GetErrorInfo(absl::OkStatus()).has_value());
  EXPECT_EQ(GetReason(absl::InternalError("x")), v1::ERROR_REASON_UNSPECIFIED);

  absl::Status garbage = absl::InternalError("x");
  garbage.SetPayload("type.googleapis.com/google.rpc.ErrorInfo", absl::Cord("\xff\xff"));
  EXPECT_EQ(GetReason(garbage), v1::ERROR_REASON_UNSPECIFIED);

  v1::ErrorInfo foreign;
  foreign.set_reason("SEQUENCE_GAP");
  foreign.set_domain("example.com");
  absl::Status other = absl::InternalError("x");
  other.SetPayload("type.googleapis.com/google.rpc.ErrorInfo", absl::Cord(foreign.SerializeAsString()));
  EXPECT_EQ(GetReason(other), v1::ERROR_REASON_UNSPECIFIED);
  foreign.set_domain("calibd");
  foreign.set_reason("OF_A_LATER_VERSION");
  other.SetPayload("type.googleapis.com/google.rpc.ErrorInfo", absl::Cord(foreign.SerializeAsString()));
  EXPECT_EQ(GetReason(other), v1::ERROR_REASON_UNSPECIFIED);
  EXPECT_EQ(GetErrorInfo(other)->reason(), "OF_A_LATER_VERSION");
}

TEST(ErrorTest, FieldPathsGrowFromTheInside) {
  const absl::Status inner = InvalidField("kind", "not set");
  EXPECT_EQ(inner.message(), "kind: not set");
  const absl::Status outer = InField("config", InField("rules[2]", InField("observer", inner)));
  EXPECT_EQ(outer.message(), "config.rules[2].observer.kind: not set");
  EXPECT_EQ(GetErrorInfo(outer)->metadata().at("field"), "config.rules[2].observer.kind");
  EXPECT_EQ(GetReason(outer), v1::ERROR_REASON_INVALID_FIELD);

  const absl::Status whole = InField("spec", MakeError(v1::ERROR_REASON_SPEC_INVALID, "contradiction"));
  EXPECT_EQ(whole.message(), "spec: contradiction");
  EXPECT_EQ(GetErrorInfo(whole)->metadata().at("field"), "spec");
  EXPECT_EQ(GetReason(whole), v1::ERROR_REASON_SPEC_INVALID);

  EXPECT_TRUE(InField("spec", absl::OkStatus()).ok());
}

TEST(ErrorTest, TextThatIsNotUtf8IsMadeSo) {
  const absl::Status status = MakeError(v1::ERROR_REASON_LAYER_NAME_INVALID, "bad \xff", {{"layer", "\xfe"}});
  EXPECT_EQ(status.message(), "bad \xef\xbf\xbd");
  EXPECT_EQ(GetErrorInfo(status)->metadata().at("layer"), "\xef\xbf\xbd");
  EXPECT_EQ(DecodeStatusDetails(status.code(), status.message(), EncodeStatusDetails(status)), status);
}

TEST(ErrorTest, DetailsAreTheStockOnes) {
  EXPECT_EQ(EncodeStatusDetails(Gap()), StockDetails());
  EXPECT_EQ(DecodeStatusDetails(absl::StatusCode::kOutOfRange, "gap", StockDetails()), Gap());
}

TEST(ErrorTest, DetailsOfAStatusWithoutReason) {
  const absl::Status plain = absl::UnavailableError("no route");
  EXPECT_EQ(DecodeStatusDetails(plain.code(), plain.message(), EncodeStatusDetails(plain)), plain);
  EXPECT_EQ(DecodeStatusDetails(plain.code(), plain.message(), ""), plain);
  EXPECT_TRUE(DecodeStatusDetails(absl::StatusCode::kOk, "", StockDetails()).ok());
}

TEST(ErrorTest, OtherDetailsArePassedOver) {
  v1::Status details;
  ASSERT_TRUE(details.ParseFromString(StockDetails()));
  const google::protobuf::Any info = details.details(0);
  details.mutable_details(0)->set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  EXPECT_FALSE(
      GetErrorInfo(DecodeStatusDetails(absl::StatusCode::kOutOfRange, "gap", details.SerializeAsString())).has_value());
  *details.add_details() = info;
  EXPECT_EQ(DecodeStatusDetails(absl::StatusCode::kOutOfRange, "gap", details.SerializeAsString()), Gap());
}

TEST(ErrorTest, GarbageDetailsLeaveCodeAndMessage) {
  const google::protobuf::LogSilencer silence;  // protobuf logs every string that is not UTF-8
  std::mt19937_64 rng(7);
  for (int i = 0; i < 5000; ++i) {
    std::string details = StockDetails();
    for (int changes = 1 + static_cast<int>(rng() % 4); changes > 0; --changes) {
      details[rng() % details.size()] = static_cast<char>(rng());
    }
    details.resize(rng() % 8 == 0 ? rng() % details.size() : details.size());
    const absl::Status status = DecodeStatusDetails(absl::StatusCode::kOutOfRange, "gap", details);
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(status.message(), "gap");
    // What could be read can be written and read again.
    EXPECT_EQ(DecodeStatusDetails(status.code(), status.message(), EncodeStatusDetails(status)), status);
  }
}

}  // namespace
}  // namespace calib
