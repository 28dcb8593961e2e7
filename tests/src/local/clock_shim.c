// Shifts the wall clock of the process that loads it (LD_PRELOAD) by the seconds in the file that TEST_CLOCK_OFFSET names,
// which it reads again ten times a second.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

static volatile long offset, looked;

int clock_gettime(clockid_t id, struct timespec *now) {
  long failed = syscall(SYS_clock_gettime, id, now);
  if (failed || id != CLOCK_REALTIME) return (int)failed;
  struct timespec monotonic;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &monotonic);
  long tenth = monotonic.tv_sec * 10 + monotonic.tv_nsec / 100000000;
  if (tenth != looked) {
    looked = tenth;
    const char *path = getenv("TEST_CLOCK_OFFSET");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds;
    if (file && fscanf(file, "%ld", &seconds) == 1) offset = seconds;
    if (file) fclose(file);
  }
  now->tv_sec += offset;
  return 0;
}
