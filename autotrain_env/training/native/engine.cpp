// The library's functions. Built once for each instruction set; see build.py.
#include <exception>

#include "cnn.h"
#include "lanes.h"
#include "mlp.h"
#include "permute.h"
#include "threads.h"

namespace autotrain {

// Calls f(job, lane) for all lanes. Returns 0, or 1 where there is not enough memory.
template <class F>
int for_each_lane(const Job& job, F&& f) {
  try {
    ThreadPool::instance().for_each(job.num_lanes, job.num_threads, [&](int64_t lane) { f(job, lane); });
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace autotrain

#define AUTOTRAIN_EXPORT extern "C" __attribute__((visibility("default")))

AUTOTRAIN_EXPORT int64_t autotrain_job_bytes() { return sizeof(autotrain::Job); }

AUTOTRAIN_EXPORT int autotrain_train(const autotrain::Job* job) {
  using namespace autotrain;
  return for_each_lane(*job, job->convolutional ? train_lane<Cnn> : train_lane<Mlp>);
}

AUTOTRAIN_EXPORT int autotrain_evaluate(const autotrain::Job* job) {
  using namespace autotrain;
  return for_each_lane(*job, job->convolutional ? evaluate_lane<Cnn> : evaluate_lane<Mlp>);
}

AUTOTRAIN_EXPORT void autotrain_permute(
    autotrain::BitGenerator* generator, int64_t* items, int64_t num_rows, int64_t size) {
  autotrain::permute(generator, items, num_rows, size);
}
