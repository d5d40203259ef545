// Every task is done once and before run() returns, whatever the number of threads, round after round.
// Built with a race detector: tests/test_cross.py.
#include "threads.hpp"

#include <cstdio>

int main() {
  for (int threads = 1; threads <= 9; threads += 2) {
    radixpoint::Threads pool(threads);
    std::vector<int> done(97);
    for (int round = 0; round < 4000; ++round) {
      const int count = round % 97 + 1;
      for (int& one : done) one = 0;
      pool.run(count, [&](int64_t i) { ++done[i]; });
      for (int i = 0; i < 97; ++i) {
        if (done[i] == (i < count)) continue;
        std::printf("%d threads, round %d: task %d was done %d times\n", threads, round, i, done[i]);
        return 1;
      }
    }
  }
  std::puts("every task was done once");
}
