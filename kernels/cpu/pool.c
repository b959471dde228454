// The threads: made when first needed, kept, and lent to one run at a time.
//
// A worker that waits first spins, SPIN_NS at most, for the next job or barrier is often only
// microseconds away; then it sleeps. Whoever changes what sleepers wait for looks at their number
// after the change, and a sleeper counts itself before its last look: one of the two sees the other.
// After a fork the child has no workers, and makes its own when it needs them.

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "program.h"

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() ((void)0)
#endif

enum { SPIN_NS = 50000, PAUSES = 32 };

// A number that goes up, and those who wait for it to change.
typedef struct {
    _Alignas(64) atomic_uint count;
    atomic_int sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} Event;

typedef struct {
    Event start;  // goes up with every job for this worker
    int thread;
} Worker;

static struct {
    atomic_flag in_use;
    int workers;
    Worker *worker[MAX_THREADS];
    int threads;  // of the job, the caller's among them
    void (*part)(void *, int);
    void *argument;
    atomic_int arrived;
    Event barrier;
} pool = {.in_use = ATOMIC_FLAG_INIT};

unsigned pool_forks;

static void event_init(Event *e, unsigned count) {
    atomic_init(&e->count, count);
    atomic_init(&e->sleepers, 0);
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, NULL);
}

static void event_raise(Event *e) {
    atomic_fetch_add(&e->count, 1);
    if (atomic_load(&e->sleepers) == 0) return;
    pthread_mutex_lock(&e->mutex);
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->mutex);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Returns when the count is no longer `seen`.
static void event_wait(Event *e, unsigned seen) {
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < PAUSES; i++) {
            if (atomic_load_explicit(&e->count, memory_order_acquire) != seen) return;
            PAUSE();
        }
        int64_t now = now_ns();
        if (!until) until = now + SPIN_NS;
        if (now > until) break;
    }
    pthread_mutex_lock(&e->mutex);
    atomic_fetch_add(&e->sleepers, 1);
    while (atomic_load(&e->count) == seen) pthread_cond_wait(&e->changed, &e->mutex);
    atomic_fetch_sub(&e->sleepers, 1);
    pthread_mutex_unlock(&e->mutex);
}

void pool_barrier(void (*last)(void *), void *argument) {
    unsigned seen = atomic_load(&pool.barrier.count);
    if (atomic_fetch_add(&pool.arrived, 1) == pool.threads - 1) {
        if (last) last(argument);
        atomic_store(&pool.arrived, 0);
        event_raise(&pool.barrier);
    } else {
        event_wait(&pool.barrier, seen);
    }
}

static void *work(void *argument) {
    Worker *me = argument;
    for (unsigned seen = 0;; seen++) {
        event_wait(&me->start, seen);
        pool.part(pool.argument, me->thread);
        pool_barrier(NULL, NULL);
    }
    return NULL;
}

static void forked(void) {
    // The parent's workers are not here, and one of their locks may have been held.
    atomic_flag_clear(&pool.in_use);
    pool.workers = 0;
    pool_forks++;
    blas_forked();
}

bool pool_watch_forks(void) { return pthread_atfork(NULL, NULL, forked) == 0; }

static bool hire(int workers) {
    if (pool.workers == 0) {
        event_init(&pool.barrier, 0);
        atomic_init(&pool.arrived, 0);
    }
    sigset_t every, before;  // signals are for the threads of Python
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    while (pool.workers < workers) {
        Worker *w = aligned_alloc(64, round_up(sizeof *w, 64));
        pthread_t id;
        if (!w) break;
        event_init(&w->start, 0);
        w->thread = pool.workers + 1;
        if (pthread_create(&id, NULL, work, w)) {
            free(w);
            break;
        }
        pthread_detach(id);
        pool.worker[pool.workers++] = w;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.workers >= workers;
}

bool pool_run(int threads, void (*part)(void *, int), void *argument) {
    if (atomic_flag_test_and_set(&pool.in_use)) return false;
    bool hired = hire(threads - 1);
    if (hired) {
        pool.threads = threads;
        pool.part = part;
        pool.argument = argument;
        for (int i = 0; i < threads - 1; i++) event_raise(&pool.worker[i]->start);
        part(argument, 0);
        pool_barrier(NULL, NULL);
    }
    atomic_flag_clear(&pool.in_use);
    return hired;
}
