#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "flatbuffers/flatbuffers.h"
#include "server/export/amplitude.h"
#include "server/export/checks.h"
#include "server/export/formats.h"
#include "server/export/number_text.h"
#include "server/export/writing_memory.h"

namespace calib::server {
namespace {

// The schema, in the words of FlatBuffers:
//   table KeyValue { key: string (key); value: string; }
//   table TrtTable { dict: [KeyValue]; }
//   root_type TrtTable;
constexpr flatbuffers::voffset_t kKey = 4, kValue = 6, kDict = 4;  // where a table's fields are, in order from 4 on
struct KeyValue;

class OnnxruntimeTableExporter final : public Exporter {
 public:
  ExportConventions conventions() const override {
    const QuantSpec int8 = {.preset = QuantPreset::kTensorrt};
    return {.activations = int8, .weights = int8};
  }

  uint64_t TensorMemory(const ExportTensor& tensor) const override {
    // The buffer grows by half; its bytes are copied into the file.
    return kTensorBytes + 4 * tensor.name.size();
  }

 private:
  absl::Status Check(const ExportTensor& tensor) override {
    if (tensor.name.find('\0') != std::string::npos) {
      return NotExportable(tensor, "its name has a NUL character, at which ONNX Runtime ends it; rename it");
    }
    if (absl::Status status = CheckSymmetricInt8(tensor); !status.ok()) return status;
    if (absl::Status status = CheckHasRange(tensor); !status.ok()) return status;
    const float amplitude = AmplitudeOf(tensor.qparams);
    // The reader is std::stof, which throws on others.
    if (amplitude >= std::numeric_limits<float>::min() && amplitude <= std::numeric_limits<float>::max()) {
      return absl::OkStatus();
    }
    return NotExportable(tensor, absl::StrCat("its greatest magnitude, ", amplitude,
                                              ", is no normal float32, which ONNX Runtime asks for; leave it out"));
  }

  absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) override {
    flatbuffers::FlatBufferBuilder builder;
    std::vector<flatbuffers::Offset<KeyValue>> rows;
    rows.reserve(tensors.size());
    for (const ExportTensor& tensor : tensors) {
      const auto key = builder.CreateString(tensor.name);
      const auto value = builder.CreateString(NumberText(AmplitudeOf(tensor.qparams)));
      const flatbuffers::uoffset_t row = builder.StartTable();
      builder.AddOffset(kValue, value);
      builder.AddOffset(kKey, key);
      rows.emplace_back(builder.EndTable(row));
    }
    const auto dict = builder.CreateVector(rows);
    const flatbuffers::uoffset_t table = builder.StartTable();
    builder.AddOffset(kDict, dict);
    builder.Finish(flatbuffers::Offset<void>(builder.EndTable(table)));
    const auto* const bytes = reinterpret_cast<const char*>(builder.GetBufferPointer());
    return ExportedFile{.bytes = std::string(bytes, builder.GetSize())};
  }
};

}  // namespace

std::unique_ptr<Exporter> NewOnnxruntimeTableExporter() { return std::make_unique<OnnxruntimeTableExporter>(); }

}  // namespace calib::server
