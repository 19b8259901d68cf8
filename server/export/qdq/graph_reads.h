#ifndef CALIB_SERVER_EXPORT_QDQ_GRAPH_READS_H_
#define CALIB_SERVER_EXPORT_QDQ_GRAPH_READS_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "onnx/onnx_pb.h"

namespace calib::server {

// Called with a node, the number of its input, and the name there, which it may change. An output of a body that is
// none of the body's own values comes without a node, as input -1.
using ReadVisitor = absl::FunctionRef<void(const onnx::NodeProto* node, int input, std::string* name)>;

// Visits every read of a value of the main graph: by its nodes, and by nodes in bodies (of If, Loop, Scan) at any
// depth. A name that a body defines is the body's, there and in the bodies inside it. Inputs that are left out
// (empty) are none; the graph's own outputs aren't visited.
void VisitReads(onnx::GraphProto* graph, ReadVisitor visit);

// Calls `visit` with the graph and every body in it, outermost first.
void VisitGraphs(const onnx::GraphProto& graph, absl::FunctionRef<void(const onnx::GraphProto&)> visit);

}  // namespace calib::server

#endif  // CALIB_SERVER_EXPORT_QDQ_GRAPH_READS_H_
