/*
 * Lets processes see events late and out of order, as on a machine that is busy.
 *
 * Preloaded (LD_PRELOAD), it stands before epoll_wait(): what is ready comes in
 * any order, some of it in the next round only, and now and then the process
 * stands still before or after. Nothing of it is forbidden to a kernel, between
 * two connections there is no order. A test that fails by it had relied on one,
 * or on being quick.
 *
 * Valkey and Python are shaken, other programs (browsers, node) left alone: what
 * is held back is reported again only where nobody asked for edges (EPOLLET).
 *
 *   SHAKE_PAUSES   how often to stand still, of 1 (0.05)
 *   SHAKE_SECONDS  for how long, at most (0.03)
 *   SHAKE_HELD     how often to hold something back, of 1 (0.5)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

typedef int Wait(int, struct epoll_event *, int, int);
typedef int WaitMasked(int, struct epoll_event *, int, int, const sigset_t *);

static Wait *wait_for_events;
static WaitMasked *wait_for_events_masked;
static int shaken;
static double pauses = 0.05, seconds = 0.03, held = 0.5;

static void set_from_environment(const char *name, double *value) {
    const char *text = getenv(name);
    if (text)
        *value = atof(text);
}

static void prepare(void) {
    char name[64] = "";
    FILE *file = fopen("/proc/self/comm", "r");
    if (file) {
        if (!fgets(name, sizeof name, file))
            name[0] = 0;
        fclose(file);
    }
    shaken = strstr(name, "valkey") || strstr(name, "python") || strstr(name, "pytest") ||
             strstr(name, "uvicorn");
    set_from_environment("SHAKE_PAUSES", &pauses);
    set_from_environment("SHAKE_SECONDS", &seconds);
    set_from_environment("SHAKE_HELD", &held);
    wait_for_events = (Wait *)dlsym(RTLD_NEXT, "epoll_wait");
    wait_for_events_masked = (WaitMasked *)dlsym(RTLD_NEXT, "epoll_pwait");
}

/* A number from 0 to 1; each process and thread has numbers of its own. */
static double chance(void) {
    static __thread unsigned short state[3];
    static __thread pid_t owner;
    if (owner != getpid()) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        owner = getpid();
        state[0] = (unsigned short)now.tv_nsec;
        state[1] = (unsigned short)(now.tv_nsec >> 16);
        state[2] = (unsigned short)owner;
    }
    return erand48(state);
}

/* A loop that only looks (timeout 0) has much to do; it is slowed down a tenth as often. */
static void stand_still(int timeout) {
    if (chance() < (timeout == 0 ? pauses / 10 : pauses))
        usleep((useconds_t)(chance() * seconds * 1e6));
}

static int shake(struct epoll_event *events, int count, int timeout) {
    int error = errno;
    for (int i = count - 1; i > 0; i--) {
        int other = (int)(chance() * (i + 1));
        struct epoll_event event = events[i];
        events[i] = events[other];
        events[other] = event;
    }
    if (count > 1 && chance() < held)
        count = 1 + (int)(chance() * count);
    if (count > 0)
        stand_still(timeout);
    errno = error;
    return count;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    pthread_once(&once, prepare);
    if (!shaken)
        return wait_for_events(epoll, events, most, timeout);
    stand_still(timeout);
    return shake(events, wait_for_events(epoll, events, most, timeout), timeout);
}

int epoll_pwait(int epoll, struct epoll_event *events, int most, int timeout,
                const sigset_t *mask) {
    pthread_once(&once, prepare);
    if (!shaken)
        return wait_for_events_masked(epoll, events, most, timeout, mask);
    stand_still(timeout);
    return shake(events, wait_for_events_masked(epoll, events, most, timeout, mask), timeout);
}
