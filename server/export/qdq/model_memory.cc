#include "server/export/qdq/model_memory.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/message.h"
#include "google/protobuf/wire_format_lite.h"
#include "onnx/onnx_pb.h"

namespace calib::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// Upper bounds, with what the allocator adds. An array that grows holds thrice its elements at most: what it had, and
// twice that.
constexpr uint64_t kAllocated = 64;  // a part's own block, and the pointer to it
constexpr uint64_t kString = 96;     // likewise, without its characters
constexpr uint64_t kScalar = 48;     // an element outside of packed ones
constexpr uint64_t kUnknown = 96;    // a field that the schema does not have
constexpr uint64_t kName = 640;      // in GraphIndex, without its characters
constexpr uint64_t kWeight = 4096;   // names, parameters and nodes for a constant
constexpr uint64_t kChannel = 40;    // of the one weight that is at work
constexpr uint64_t kGrowth = 3;
constexpr int kMostDepth = 100;  // of protobuf's parser

bool IsDimension(const FieldDescriptor* field) {
  return field != nullptr && field->containing_type() == onnx::TensorProto::descriptor() &&
         field->number() == onnx::TensorProto::kDimsFieldNumber;
}

// Whether GraphIndex keeps it.
bool IsName(const FieldDescriptor& field) {
  const Descriptor* const owner = field.containing_type();
  if (owner == onnx::NodeProto::descriptor()) {
    return field.number() == onnx::NodeProto::kNameFieldNumber || field.number() == onnx::NodeProto::kOutputFieldNumber;
  }
  return (owner == onnx::ValueInfoProto::descriptor() && field.number() == onnx::ValueInfoProto::kNameFieldNumber) ||
         (owner == onnx::TensorProto::descriptor() && field.number() == onnx::TensorProto::kNameFieldNumber);
}

uint64_t ElementBytes(const FieldDescriptor& field) {
  const FieldDescriptor::CppType type = field.cpp_type();
  return type == FieldDescriptor::CPPTYPE_FLOAT || type == FieldDescriptor::CPPTYPE_INT32 ? 4 : 8;
}

// Reads the wire format as protobuf's parser does, and adds up what the parser would make.
class MemoryWalk {
 public:
  explicit MemoryWalk(CodedInputStream* input) : input_(*input) {}

  // A message's fields, to the stream's limit; with null those of a group, to its end. False: damaged.
  bool Fields(const Descriptor* type, int depth);
  uint64_t bytes() const { return bytes_; }
  // The greatest of all tensors.
  uint64_t dimension() const { return dimension_; }

 private:
  bool Field(const FieldDescriptor* field, WireFormatLite::WireType wire, int depth);
  bool Delimited(const FieldDescriptor* field, int depth);
  bool Packed(const FieldDescriptor& field, uint32_t length);
  // Of a message without fields.
  uint64_t SizeOf(const Descriptor* type);

  CodedInputStream& input_;
  uint64_t bytes_ = 0;
  uint64_t dimension_ = 0;
  absl::flat_hash_map<const Descriptor*, uint64_t> sizes_;
};

bool MemoryWalk::Fields(const Descriptor* type, int depth) {
  if (depth > kMostDepth) return false;
  while (const uint32_t tag = input_.ReadTag()) {
    const WireFormatLite::WireType wire = WireFormatLite::GetTagWireType(tag);
    if (wire == WireFormatLite::WIRETYPE_END_GROUP) return type == nullptr;
    const int number = WireFormatLite::GetTagFieldNumber(tag);
    if (!Field(type == nullptr ? nullptr : type->FindFieldByNumber(number), wire, depth)) return false;
  }
  return type != nullptr && input_.BytesUntilLimit() <= 0;
}

bool MemoryWalk::Field(const FieldDescriptor* field, WireFormatLite::WireType wire, int depth) {
  uint64_t number64 = 0;
  uint32_t number32 = 0;
  if (wire != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
    const bool known = field != nullptr && wire == WireFormatLite::WireTypeForFieldType(
                                                       static_cast<WireFormatLite::FieldType>(field->type()));
    // Numbers that an enumeration does not have are kept as unknown fields.
    bytes_ += known && field->cpp_type() != FieldDescriptor::CPPTYPE_ENUM ? kScalar : kUnknown;
  }
  switch (wire) {
    case WireFormatLite::WIRETYPE_VARINT:
      if (!input_.ReadVarint64(&number64)) return false;
      if (IsDimension(field)) dimension_ = std::max(dimension_, number64);
      return true;
    case WireFormatLite::WIRETYPE_FIXED64:
      return input_.ReadLittleEndian64(&number64);
    case WireFormatLite::WIRETYPE_FIXED32:
      return input_.ReadLittleEndian32(&number32);
    case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
      return Delimited(field, depth);
    case WireFormatLite::WIRETYPE_START_GROUP:
      return Fields(nullptr, depth + 1);
    default:
      return false;
  }
}

bool MemoryWalk::Delimited(const FieldDescriptor* field, int depth) {
  uint32_t length;
  if (!input_.ReadVarint32(&length) || length > static_cast<uint32_t>(std::numeric_limits<int>::max())) return false;
  if (field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    bytes_ += SizeOf(field->message_type());
    const CodedInputStream::Limit limit = input_.PushLimit(static_cast<int>(length));
    const bool whole = Fields(field->message_type(), depth + 1);
    input_.PopLimit(limit);
    return whole;
  }
  if (field != nullptr && field->is_packable()) return Packed(*field, length);
  // Checked first: the length may be a lie.
  if (!input_.Skip(static_cast<int>(length))) return false;
  bytes_ += kString + length;
  if (field == nullptr) bytes_ += kUnknown;
  if (field != nullptr && IsName(*field)) bytes_ += kName + 2 * uint64_t{length};
  return true;
}

bool MemoryWalk::Packed(const FieldDescriptor& field, uint32_t length) {
  bytes_ += kScalar;
  const auto type = static_cast<WireFormatLite::FieldType>(field.type());
  if (WireFormatLite::WireTypeForFieldType(type) != WireFormatLite::WIRETYPE_VARINT) {
    if (!input_.Skip(static_cast<int>(length))) return false;
    bytes_ += kGrowth * length;
    return true;
  }
  const CodedInputStream::Limit limit = input_.PushLimit(static_cast<int>(length));
  uint64_t number = 0;
  while (input_.BytesUntilLimit() > 0) {
    if (!input_.ReadVarint64(&number)) return false;
    bytes_ += kGrowth * ElementBytes(field);
    if (IsDimension(&field)) dimension_ = std::max(dimension_, number);
  }
  input_.PopLimit(limit);
  return true;
}

uint64_t MemoryWalk::SizeOf(const Descriptor* type) {
  uint64_t& size = sizes_[type];
  if (size == 0) {
    size = kAllocated + google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->SpaceUsedLong();
    if (type == onnx::TensorProto::descriptor()) size += kWeight;
  }
  return size;
}

}  // namespace

uint64_t ModelMemory(absl::string_view model) {
  if (model.size() > static_cast<size_t>(std::numeric_limits<int>::max())) return model.size();
  google::protobuf::io::ArrayInputStream bytes(model.data(), static_cast<int>(model.size()));
  CodedInputStream input(&bytes);
  MemoryWalk walk(&input);
  walk.Fields(onnx::ModelProto::descriptor(), 0);
  // Channels without a value of their own end the work.
  return walk.bytes() + kChannel * std::min<uint64_t>(walk.dimension(), model.size() / sizeof(float));
}

}  // namespace calib::server
