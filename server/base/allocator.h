#ifndef CALIB_SERVER_BASE_ALLOCATOR_H_
#define CALIB_SERVER_BASE_ALLOCATOR_H_

namespace calib::server {

// Tells the process's malloc to keep freed memory for the next message. By default glibc maps memory for each large
// message and unmaps it after, and the kernel clears every page again, which takes as long as ingestion itself. Costs
// up to 128 MiB of memory that is not given back. For main(), before threads start.
void KeepFreedMemory();

}  // namespace calib::server

#endif  // CALIB_SERVER_BASE_ALLOCATOR_H_
