// The library's functions. Built once for each instruction set; see build.py.
#include <exception>
#include <optional>

#include "cnn.h"
#include "lanes.h"
#include "members.h"
#include "mlp.h"
#include "permute.h"
#include "threads.h"

namespace autotrain {

// Returns 0, or 1 where there is not enough memory.
template <class F>
int status_of(F&& f) {
  try {
    f();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

// Calls f(job, lane) for all lanes.
template <class F>
int for_each_lane(const Job& job, F&& f) {
  return status_of([&] {
    ThreadPool::instance().for_each(job.num_lanes, job.num_threads, [&](int64_t lane) { f(job, lane); });
  });
}

inline int measure_generation(const Job& job, const Members& members) {
  return status_of([&] {
    const FlushDenormals flush;
    std::optional<SharedFirst> shared;
    if (members.centre && !job.convolutional) shared.emplace(job, members);
    const auto measure = job.convolutional ? measure_members<Cnn> : measure_members<Mlp>;
    const int64_t parts = (job.num_lanes + kLanesTogether - 1) / kLanesTogether;
    ThreadPool::instance().for_each(parts, job.num_threads, [&](int64_t part) {
      measure(job, members, shared ? &*shared : nullptr, part * kLanesTogether);
    });
  });
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

AUTOTRAIN_EXPORT int64_t autotrain_members_bytes() { return sizeof(autotrain::Members); }

AUTOTRAIN_EXPORT int autotrain_measure(const autotrain::Job* job, const autotrain::Members* members) {
  return autotrain::measure_generation(*job, *members);
}

AUTOTRAIN_EXPORT void autotrain_permute(
    autotrain::BitGenerator* generator, int64_t* items, int64_t num_rows, int64_t size) {
  autotrain::permute(generator, items, num_rows, size);
}
