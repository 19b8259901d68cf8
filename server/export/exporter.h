#ifndef CALIB_SERVER_EXPORT_EXPORTER_H_
#define CALIB_SERVER_EXPORT_EXPORTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "calib/v1/export.pb.h"
#include "calib/v1/quantization.pb.h"
#include "quant/quant_spec.h"

namespace calib::server {

// A layer on its way into a file.
struct ExportTensor {
  std::string name;  // in the file
  bool is_weight = false;
  v1::LayerQParams qparams;  // without an error
};

// One that was added and is not in the file all the same.
struct OmittedTensor {
  std::string name;
  absl::Status reason;
};

struct ExportedFile {
  std::string bytes;
  // Only when the options say that such tensors are left out.
  std::vector<OmittedTensor> omitted;
  // Tensors of the input that are quantized without a layer, in name order.
  std::vector<std::string> from_input;
};

// What the consumers of a format expect.
struct ExportConventions {
  enum class Input { kNone, kOptional, kRequired };
  Input input = Input::kNone;
  // What a request leaves open of the spec. Unset: each layer's rule has it.
  std::optional<QuantSpec> activations;
  std::optional<QuantSpec> weights;
  // Weights that are observed per channel have a scale a channel, unless a request says otherwise.
  bool weights_per_channel = false;
};

// Makes one file: Begin, Add for each tensor, weights first, then Finish. README.md has what each format holds.
// Equal tensors, options and inputs give equal files, in whatever order the tensors come. Not thread-safe.
class Exporter {
 public:
  virtual ~Exporter() = default;

  virtual ExportConventions conventions() const = 0;
  // The name that a layer gets without an entry in the options' name map.
  virtual std::string NameOf(absl::string_view layer, bool /*is_weight*/) const { return std::string(layer); }

  // The most bytes that it takes to read an input and to write what is made of it, beside the input and the tensors.
  virtual uint64_t InputMemory(absl::string_view input) const { return 2 * input.size(); }
  // The most bytes that it takes to keep a tensor and to write it, its part of the file included, beside its name and
  // its qparams as they are. The tensor may be one that Add refuses.
  virtual uint64_t TensorMemory(const ExportTensor& tensor) const = 0;
  // The options, with method and spec of weights filled in (a granularity that is not set is open), and the input,
  // empty if there is none. INVALID_FIELD, EXPORT_INPUT_INVALID.
  // NOLINTNEXTLINE(performance-unnecessary-value-param): overriders keep the input
  virtual absl::Status Begin(const v1::ExportOptions& /*options*/, std::string /*input*/) { return absl::OkStatus(); }
  // NOT_EXPORTABLE: the format can't hold it; the message says why and what to do, and the file is made without it.
  // REQUIRES: no tensor before had this name.
  absl::Status Add(ExportTensor tensor);
  // EXPORT_INPUT_INVALID, NOT_EXPORTABLE. CANCELLED: `abandoned`, which long work asks now and then, said so.
  absl::StatusOr<ExportedFile> Finish(const std::function<bool()>& abandoned = {});

 protected:
  // Whether the format can hold the tensor beside those that were added.
  virtual absl::Status Check(const ExportTensor& tensor) = 0;
  // `tensors` in name order. Work that may take long has to ask abandoned().
  virtual absl::StatusOr<ExportedFile> Write(absl::Span<const ExportTensor> tensors) = 0;
  // Of Finish.
  const std::function<bool()>& abandoned() const { return abandoned_; }

 private:
  std::vector<ExportTensor> tensors_;
  std::function<bool()> abandoned_;
};

// Null for a format that this build does not know.
std::unique_ptr<Exporter> NewExporter(v1::ExportFormat format);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_EXPORTER_H_
