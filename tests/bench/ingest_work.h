#ifndef CALIB_TESTS_BENCH_INGEST_WORK_H_
#define CALIB_TESTS_BENCH_INGEST_WORK_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "calib/v1/calibration_service.grpc.pb.h"
#include "quant/observer_config.h"

namespace calib::bench {

// What benchmarks of ingestion send. Whatever fails ends the program: a benchmark of failures says nothing.

// What one message carries, and how many values and rows that stands for.
struct IngestWork {
  std::string name;
  v1::Update update;  // its units are set before each send
  std::vector<std::string> layers;
  ObserverKind observer = ObserverKind::kHistogram;
  uint64_t rows = 0;
  int messages = 0;
};

// One raw tensor of 1 MiB a message.
IngestWork RawWork(int messages);
// Statistics of `layers` layers of 8192 values a message; `kind` is kHistogram or kMinMax.
IngestWork StatisticsWork(ObserverKind kind, int layers, int messages);

std::unique_ptr<v1::Calibration::Stub> ConnectTo(const std::string& address);
void CreateSessionFor(v1::Calibration::Stub* stub, const IngestWork& work, const std::string& session);
// Streams the work once, as this worker; returns seconds, until all of it is answered. Unless the server is a bare one,
// which answers nothing, all has to be durable then.
double StreamWork(v1::Calibration::Stub* stub, const IngestWork& work, const std::string& session,
                  const std::string& worker_id, bool bare);

double Median(std::vector<double> values);

}  // namespace calib::bench

#endif  // CALIB_TESTS_BENCH_INGEST_WORK_H_
