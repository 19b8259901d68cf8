// What exporters say that writing takes is no less than what it does take: this program counts its allocations.

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "absl/strings/str_cat.h"
#include "onnx/onnx_pb.h"
#include "tests/export/exporter_fixture.h"

namespace {

// With the allocator's own 8 bytes of each block.
thread_local int64_t held = 0, peak = 0;

void* Allocate(size_t bytes) noexcept {
  void* const block = std::malloc(std::max<size_t>(bytes, 1));
  if (block == nullptr) return nullptr;
  held += static_cast<int64_t>(malloc_usable_size(block) + 8);
  peak = std::max(peak, held);
  return block;
}

void Free(void* block) noexcept {
  if (block != nullptr) held -= static_cast<int64_t>(malloc_usable_size(block) + 8);
  std::free(block);
}

}  // namespace

void* operator new(size_t bytes) {
  if (void* const block = Allocate(bytes); block != nullptr) return block;
  throw std::bad_alloc();
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return Allocate(bytes); }
void* operator new[](size_t bytes) { return operator new(bytes); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return Allocate(bytes); }
void operator delete(void* block) noexcept { Free(block); }
void operator delete(void* block, size_t) noexcept { Free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { Free(block); }
void operator delete[](void* block) noexcept { Free(block); }
void operator delete[](void* block, size_t) noexcept { Free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { Free(block); }

namespace calib::server {
namespace {

// What files have beside tensors is not counted.
constexpr uint64_t kFileBytes = 6144;

// Layers of a model: a weight with a scale a channel, and what the layer makes of it.
struct Case {
  int layers;
  int channels;
  std::string prefix;  // of names
  std::optional<QuantSpec> spec = std::nullopt;
};

std::string LayerName(const Case& model, int layer) { return absl::StrCat(model.prefix, layer); }

// Numbers of many digits.
ClipRange RangeOf(int i) { return {-1.2345678e-5f * (1 + static_cast<float>(i) / 9999), 7.6543217e-6f}; }

std::string OnnxModel(const Case& layers) {
  onnx::ModelProto model;
  model.set_ir_version(8);
  model.add_opset_import()->set_version(21);
  for (int i = 0; i < layers.layers; ++i) {
    onnx::NodeProto* const node = model.mutable_graph()->add_node();
    node->set_op_type("Gemm");
    node->add_input("x");
    node->add_input(LayerName(layers, i) + ".weight");
    node->add_output(LayerName(layers, i));
    onnx::AttributeProto* const transposed = node->add_attribute();
    transposed->set_name("transB");
    transposed->set_type(onnx::AttributeProto::INT);
    transposed->set_i(1);
    onnx::TensorProto* const weight = model.mutable_graph()->add_initializer();
    weight->set_name(LayerName(layers, i) + ".weight");
    weight->set_data_type(onnx::TensorProto::FLOAT);
    weight->add_dims(layers.channels);
    weight->add_dims(1);
    weight->set_raw_data(std::string(sizeof(float) * static_cast<size_t>(layers.channels), '\0'));
  }
  return model.SerializeAsString();
}

std::vector<ExportTensor> TensorsOf(const Exporter& exporter, const Case& layers) {
  std::vector<ClipRange> channels;
  for (int i = 0; i < layers.channels; ++i) channels.push_back(RangeOf(i));
  std::vector<ExportTensor> tensors;
  for (const bool weights : {true, false}) {
    for (int i = 0; i < layers.layers; ++i) {
      const std::string name = LayerName(layers, i);
      tensors.push_back(weights ? Weight(exporter, name + ".weight", channels)
                                : Activation(exporter, name, RangeOf(i)));
      if (exporter.conventions().input == ExportConventions::Input::kRequired && weights) {
        tensors.back().name = name + ".weight";
      }
      if (layers.spec.has_value()) tensors.back() = WithSpec(std::move(tensors.back()), *layers.spec);
    }
  }
  return tensors;
}

// What a file of the layers that the format can hold takes. False: it can hold none, or no weights of many channels.
bool Measure(v1::ExportFormat format, const Case& layers, uint64_t* counted, uint64_t* taken) {
  const std::unique_ptr<Exporter> exporter = NewExporter(format);
  std::string input;
  if (exporter->conventions().input == ExportConventions::Input::kRequired) input = OnnxModel(layers);
  std::vector<ExportTensor> tensors = TensorsOf(*exporter, layers);
  std::erase_if(tensors, [&](const ExportTensor& tensor) {
    // Asked of an exporter of its own.
    const std::unique_ptr<Exporter> other = NewExporter(format);
    return tensor.is_weight && !other->Add(tensor).ok();
  });
  const bool any_weights = !tensors.empty() && tensors.front().is_weight;
  *counted = exporter->InputMemory(input);
  const int64_t before = held;
  peak = held;
  EXPECT_TRUE(exporter->Begin({}, std::move(input)).ok());
  bool any = false;
  for (ExportTensor& tensor : tensors) {
    const uint64_t bytes = exporter->TensorMemory(tensor);
    if (!exporter->Add(std::move(tensor)).ok()) continue;
    *counted += bytes;
    any = true;
  }
  if (any) {
    const absl::StatusOr<ExportedFile> file = exporter->Finish();
    EXPECT_TRUE(file.ok()) << file.status();
  }
  *taken = static_cast<uint64_t>(peak - before);
  return any && (any_weights || layers.channels == 1);
}

// Every format that this build knows.
std::vector<v1::ExportFormat> Formats() {
  std::vector<v1::ExportFormat> formats;
  for (int format = v1::ExportFormat_MIN; format <= v1::ExportFormat_MAX; ++format) {
    if (NewExporter(static_cast<v1::ExportFormat>(format)) == nullptr) continue;
    formats.push_back(static_cast<v1::ExportFormat>(format));
  }
  return formats;
}

TEST(WritingMemoryTest, CountsNoLessThanItTakes) {
  int with_channels = 0;
  for (const v1::ExportFormat format : Formats()) {
    uint64_t counted = 0, taken = 0;
    Measure(format, {1, 1, "l"}, &counted, &taken);  // what first use makes stays, such as protobuf's descriptors
    for (const Case& layers :
         {Case{1, 1, "l"}, Case{2000, 1, "l"}, Case{1000, 1, std::string(200, 'n')}, Case{2000, 1, "\x01\x02\"\n"},
          Case{1, 60'000, "l"}, Case{10, 4000, "l"}, Case{10, 4000, std::string(50, '"')},
          Case{3, 10'000, "l", QuantSpec{.type = {.bits = 8, .is_signed = false}, .scheme = QuantScheme::kAffine}},
          Case{3, 10'000, "l",
               QuantSpec{.type = {.bits = 8}, .scheme = QuantScheme::kAffine, .preset = QuantPreset::kAimet}}}) {
      const bool all_channels = Measure(format, layers, &counted, &taken);
      const std::string what = absl::StrCat(v1::ExportFormat_Name(format), ", ", layers.layers, " layers of ",
                                            layers.channels, " channels, ", layers.prefix.substr(0, 4));
      if (!all_channels) continue;
      EXPECT_GE(counted + kFileBytes, taken) << what;
      if (layers.channels == 1) continue;
      ++with_channels;
      // And not so much more that what fits is refused.
      EXPECT_LE(counted, 4 * taken) << what;
    }
  }
  EXPECT_GE(with_channels, 30);
}

}  // namespace
}  // namespace calib::server
