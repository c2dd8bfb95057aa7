/* A clock that torture sets: adds as many seconds to what the wall clock shows as a file says, which is read anew at
   each look. Loaded into a program by LD_PRELOAD; clocks that nobody sets stay as they are. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_s;
static int (*look)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    look = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("TORTURE_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *ahead_s, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        ahead_s = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    /* Others may be loaded, and look at the clock, before this is. */
    int failed = look ? look(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *ahead_s;
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return (time_t)-1;
    if (told)
        *told = now.tv_sec;
    return now.tv_sec;
}
