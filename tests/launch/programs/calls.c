// SPDX-License-Identifier: Apache-2.0
// Makes the syscalls that umwelt answers, by syscall(2) alone, whatever the C library does.
//
//   calls show                 what each says, "KEY=VALUE" lines
//   calls random SEED COUNT    random affinity calls, a line each: to be compared between machines
//   calls hammer THREADS SECONDS CPUS BYTES   all four in a loop, every answer checked
//   calls cost NAME COUNT      median time of a call in ns
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int show(void) {
  struct sysinfo info;
  memset(&info, 0xee, sizeof info);
  if (syscall(SYS_sysinfo, &info) != 0) return 1;
  uint64_t unit = info.mem_unit;
  printf("uptime=%ld\nload=%.2f\ntotalram=%llu\nfreeram=%llu\n", (long)info.uptime,
         (double)info.loads[0] / 65536, (unsigned long long)(info.totalram * unit),
         (unsigned long long)(info.freeram * unit));
  printf("sharedram=%llu\nbufferram=%llu\ntotalswap=%llu\nprocs=%u\nunit=%u\n",
         (unsigned long long)(info.sharedram * unit), (unsigned long long)(info.bufferram * unit),
         (unsigned long long)(info.totalswap * unit), info.procs, info.mem_unit);
  unsigned long mask[1024 / sizeof(long)];
  memset(mask, 0xee, sizeof mask);
  long n = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  if (n < 0) return 1;
  printf("affinity_bytes=%ld\naffinity=", n);
  const char* comma = "";
  for (long cpu = 0; cpu < n * 8; ++cpu) {
    if (((unsigned char*)mask)[cpu / 8] >> cpu % 8 & 1) printf("%s%ld", comma, cpu), comma = ",";
  }
  unsigned cpu = ~0u, node = ~0u;
  if (syscall(SYS_getcpu, &cpu, &node, NULL) != 0) return 1;
  printf("\ncpu=%u\nnode=%u\n", cpu, node);
  memset(mask, 0xff, sizeof mask);
  printf("set_all=%ld\n", (long)syscall(SYS_sched_setaffinity, 0, sizeof mask, mask));
  return 0;
}

static uint64_t state;
static uint32_t next(uint32_t bound) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % bound;
}

static void* sleeper(void* arg) {
  *(volatile pid_t*)arg = (pid_t)syscall(SYS_gettid);
  for (;;) pause();
  return NULL;
}

// Targets: itself, a thread, a child, and ids that nobody has.
static int random_calls(uint64_t seed, int count) {
  state = seed;
  static volatile pid_t thread_id;
  pthread_t thread;
  pthread_create(&thread, NULL, sleeper, (void*)&thread_id);
  while (thread_id == 0) sched_yield();
  pid_t child = fork();
  if (child == 0)
    for (;;) pause();
  pid_t dead = fork();
  if (dead == 0) _exit(0);
  waitpid(dead, NULL, 0);
  struct {
    const char* name;
    pid_t id;
  } targets[] = {{"0", 0},         {"self", getpid()}, {"thread", thread_id}, {"child", child},
                 {"dead", dead},   {"-1", -1},         {"max", 0x7fffffff},   {"min", INT32_MIN}};
  const uint32_t sizes[] = {0, 1, 2, 3, 4, 7, 8, 9, 12, 16, 24, 64, 128, 1024, 0x20000000,
                            0x20000008, 0xfffffff8u, 0xffffffffu};
  unsigned char* page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                             -1, 0);
  mprotect(page + 4096, 4096, PROT_READ);
  munmap(page + 2 * 4096, 4096);
  for (int i = 0; i < count; ++i) {
    int target = (int)next(next(2) ? 4 : 8);
    uint32_t size = sizes[next(next(2) ? 18 : 7)];
    if (next(2)) size = 128;
    unsigned char* where = page + next(64) * 8;
    const char* kind = "good";
    switch (next(12)) {
      case 0: where = NULL; kind = "null"; break;
      case 1: where = page + 4096 + 16; kind = "readonly"; break;
      case 2: where = page + 4096 - 4; kind = "crosses"; break;
      case 3: where = page + 2 * 4096 - 4; kind = "ends"; break;
      case 4: where = (unsigned char*)(intptr_t)-4096; kind = "kernel"; break;
      case 5: where = (unsigned char*)1; kind = "one"; break;
      default: break;
    }
    int set = (int)next(2);
    int fills = where >= page && where < page + 4096;
    memset(page, set ? 0 : 0xcc, 4096);
    if (set && fills) {
      uint32_t bits = next(3) == 0 ? next(2) : next(16);
      if (next(8) == 0) memset(where, 0xff, (size_t)(page + 4096 - where));
      else where[0] = (unsigned char)bits;
      if (next(16) == 0 && where + 9 < page + 4096) where[1 + next(8)] = (unsigned char)next(256);
    }
    unsigned char first = fills ? where[0] : 0;
    errno = 0;
    long result = syscall(set ? SYS_sched_setaffinity : SYS_sched_getaffinity, targets[target].id,
                          size, where);
    int code = result < 0 ? errno : 0;
    printf("%d %s %s %u %s", i, set ? "set" : "get", targets[target].name, size, kind);
    if (set) printf(" %02x", first);
    printf(" = %ld %d", result < 0 ? -1 : result, code);
    if (!set && result > 0 && fills) {
      printf(" ");
      for (long b = 0; b < result + 2 && where + b < page + 4096; ++b) printf("%02x", where[b]);
    }
    // What it did to each of them.
    if (set && result == 0)
      for (int t = 0; t < 4; ++t) {
        unsigned char mask[128];
        long n = syscall(SYS_sched_getaffinity, targets[t].id, sizeof mask, mask);
        printf(" %s:%02x", targets[t].name, n > 0 ? mask[0] : 0xee);
      }
    printf("\n");
  }
  kill(child, SIGKILL);
  return 0;
}

static volatile int stop;
static unsigned want_cpus;
static uint64_t want_bytes;

static void* hammer(void* arg) {
  uint64_t* counts = arg;
  while (!stop) {
    struct sysinfo info;
    memset(&info, 0xee, sizeof info);
    int sysinfo_ok = syscall(SYS_sysinfo, &info) == 0 &&
                     (uint64_t)info.totalram * info.mem_unit == want_bytes && info.uptime < 100000;
    if (!sysinfo_ok) fprintf(stderr, "sysinfo: errno %d, %llu\n", errno,
                             (unsigned long long)info.totalram);
    unsigned char mask[128], all[128];
    memset(mask, 0xee, sizeof mask);
    errno = 0;
    long n = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    int get_ok = n >= 8 && mask[0] == (1u << want_cpus) - 1;
    if (!get_ok) fprintf(stderr, "getaffinity: %ld errno %d, %02x\n", n, errno, mask[0]);
    memset(all, 0xff, sizeof all);
    errno = 0;
    int set_ok = syscall(SYS_sched_setaffinity, 0, sizeof all, all) == 0;
    if (!set_ok) fprintf(stderr, "setaffinity: errno %d\n", errno);
    unsigned cpu = ~0u, node = ~0u;
    errno = 0;
    int getcpu_ok = syscall(SYS_getcpu, &cpu, &node, NULL) == 0 && cpu < want_cpus;
    if (!getcpu_ok) fprintf(stderr, "getcpu: errno %d, %u\n", errno, cpu);
    counts[0] += 4;
    counts[1] += (uint64_t)(!sysinfo_ok + !get_ok + !set_ok + !getcpu_ok);
  }
  return NULL;
}

// Until SIGTERM.
static int hammer_all(int threads) {
  pthread_t ids[64];
  static uint64_t counts[64][8];
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, NULL);
  for (int i = 0; i < threads; ++i) pthread_create(&ids[i], NULL, hammer, counts[i]);
  printf("ready\n");
  fflush(stdout);
  int signal;
  sigwait(&term, &signal);
  stop = 1;
  uint64_t calls = 0, wrong = 0;
  for (int i = 0; i < threads; ++i) {
    pthread_join(ids[i], NULL);
    calls += counts[i][0];
    wrong += counts[i][1];
  }
  printf("calls=%llu wrong=%llu\n", (unsigned long long)calls, (unsigned long long)wrong);
  return wrong != 0;
}

static int compare(const void* a, const void* b) {
  uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static int cost(const char* name, int count) {
  uint64_t* times = calloc((size_t)count, sizeof *times);
  unsigned char mask[128];
  memset(mask, 0xff, sizeof mask);
  struct sysinfo info;
  unsigned cpu, node;
  for (int i = 0; i < count; ++i) {
    uint64_t start = now_ns();
    if (!strcmp(name, "sysinfo")) syscall(SYS_sysinfo, &info);
    else if (!strcmp(name, "getaffinity")) syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    else if (!strcmp(name, "setaffinity")) syscall(SYS_sched_setaffinity, 0, sizeof mask, mask);
    else if (!strcmp(name, "getcpu")) syscall(SYS_getcpu, &cpu, &node, NULL);
    else return 2;
    times[i] = now_ns() - start;
  }
  qsort(times, (size_t)count, sizeof *times, compare);
  printf("%s p50=%llu p10=%llu p99=%llu\n", name, (unsigned long long)times[count / 2],
         (unsigned long long)times[count / 10], (unsigned long long)times[count / 100 * 99]);
  return 0;
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (!strcmp(what, "show")) return show();
  if (!strcmp(what, "random") && argc == 4)
    return random_calls(strtoull(argv[2], NULL, 0), atoi(argv[3]));
  if (!strcmp(what, "hammer") && argc == 5) {
    want_cpus = (unsigned)atoi(argv[3]);
    want_bytes = strtoull(argv[4], NULL, 0);
    return hammer_all(atoi(argv[2]));
  }
  if (!strcmp(what, "cost") && argc == 4) return cost(argv[2], atoi(argv[3]));
  return 2;
}
