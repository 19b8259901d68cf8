#ifndef CALIB_TESTS_EXPORT_EXPORTER_FIXTURE_H_
#define CALIB_TESTS_EXPORT_EXPORTER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "proto/codec/error.h"
#include "quant/quant_rules.h"
#include "server/export/exporter.h"

namespace calib::server {

// What a server answers for a layer that saw these ranges, one, or one a channel along axis 0.
v1::LayerQParams QParamsOf(const std::string& layer, const QuantSpec& spec, const std::vector<ClipRange>& ranges);

// One layer for `exporter`: the format's name and spec, unless another spec is given. Several ranges: per channel.
ExportTensor Activation(const Exporter& exporter, const std::string& layer, const ClipRange& range);
ExportTensor Weight(const Exporter& exporter, const std::string& layer, const std::vector<ClipRange>& ranges);
ExportTensor WithSpec(ExportTensor tensor, const QuantSpec& spec);
ExportTensor WithName(ExportTensor tensor, const std::string& name);

// The layers of most tests: `input` in [-2.5, 2.1], `conv1_out` in [0, 6.35], `fc_out` in [-12.7, 9].
std::vector<ExportTensor> Sample(const Exporter& exporter);

// The file of a format and these tensors; fails the test when it can't be made.
std::string FileOf(v1::ExportFormat format, const std::vector<ExportTensor>& tensors,
                   const v1::ExportOptions& options = {}, const std::string& input = "");
// Of the sample.
std::string SampleFile(v1::ExportFormat format, const v1::ExportOptions& options = {}, const std::string& input = "");

// A tensor is refused: NOT_EXPORTABLE, about its layer, and says this.
void ExpectRefused(Exporter* exporter, const ExportTensor& tensor, const std::string& says);

}  // namespace calib::server

#endif  // CALIB_TESTS_EXPORT_EXPORTER_FIXTURE_H_
