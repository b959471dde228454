// The threads: made when first needed, kept, and lent to one run at a time.
//
// A run is a row of phases, each of so many parts. Whoever is free takes the next part, its own
// first; the one that ends the last part of a phase opens the next. What a part does and where it
// writes depends on its number alone, never on the thread, so results do not depend on timing; and
// a thread that the system has put aside holds nothing up but the part it is in.
//
// Who waits spins first, SPIN_NS at most, for the next phase is often only microseconds away; then
// sleeps. Whoever opens a phase looks at the number of sleepers after that, and a sleeper counts
// itself before its last look: one of the two sees the other.
//
// A thread may look at a phase that is over, even at a run that is over: until it has claimed a
// part it touches nothing but the pool, which is never freed. After a fork the child has no
// workers.

#include <pthread.h>
#include <signal.h>
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

static struct {
    atomic_flag in_use;
    int workers;
    PoolJob job;

    _Alignas(64) atomic_ullong phase;  // goes up with every phase and at the end of a run
    atomic_int sleepers;
    atomic_int parts;  // of the phase
    atomic_bool over;
    pthread_mutex_t mutex;
    pthread_cond_t changed;

    _Alignas(64) atomic_int done;                       // parts of the phase
    _Alignas(64) atomic_ullong claim[MAX_THREADS];  // 2 phase: open; 2 phase + 1: taken
} pool = {.in_use = ATOMIC_FLAG_INIT,
          .mutex = PTHREAD_MUTEX_INITIALIZER,
          .changed = PTHREAD_COND_INITIALIZER};

unsigned pool_forks;

static void open_phase(int parts) {
    unsigned long long phase = atomic_load(&pool.phase) + 1;
    atomic_store(&pool.parts, parts);
    atomic_store(&pool.done, 0);
    atomic_store(&pool.over, parts == 0);
    for (int t = 0; t < parts; t++) {
        atomic_store_explicit(&pool.claim[t], 2 * phase, memory_order_release);
    }
    atomic_store(&pool.phase, phase);
    if (atomic_load(&pool.sleepers) == 0) return;
    pthread_mutex_lock(&pool.mutex);
    pthread_cond_broadcast(&pool.changed);
    pthread_mutex_unlock(&pool.mutex);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_after(unsigned long long phase) {
    int64_t until = 0;
    for (;;) {
        for (int i = 0; i < PAUSES; i++) {
            if (atomic_load_explicit(&pool.phase, memory_order_acquire) != phase) return;
            PAUSE();
        }
        int64_t now = now_ns();
        if (!until) until = now + SPIN_NS;
        if (now > until) break;
    }
    pthread_mutex_lock(&pool.mutex);
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(&pool.phase) == phase) pthread_cond_wait(&pool.changed, &pool.mutex);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.mutex);
}

// All parts of the phase that nobody has taken, those from `self` on first.
static void take_parts(unsigned long long phase, int self) {
    for (int i = 0, parts = atomic_load(&pool.parts); i < parts; i++) {
        int t = (self + i) % parts;
        unsigned long long open = 2 * phase;
        if (!atomic_compare_exchange_strong(&pool.claim[t], &open, 2 * phase + 1)) continue;
        pool.job.part(pool.job.argument, t);
        // While the part was this thread's, the phase could not end: all of the pool was its own.
        parts = atomic_load(&pool.parts);
        if (atomic_fetch_add(&pool.done, 1) + 1 == parts) {
            open_phase(pool.job.next(pool.job.argument));
            return;
        }
    }
}

static void *work(void *argument) {
    const int self = (int)(intptr_t)argument;
    for (;;) {
        unsigned long long phase = atomic_load(&pool.phase);
        take_parts(phase, self);
        wait_after(phase);
    }
    return NULL;
}

static void forked(void) {
    pool_forks++;
    pool.workers = 0;
    atomic_store(&pool.sleepers, 0);
    pthread_mutex_init(&pool.mutex, NULL);  // a thread that is not here may have held it
    pthread_cond_init(&pool.changed, NULL);
    atomic_flag_clear(&pool.in_use);
    blas_forked();
}

bool pool_watch_forks(void) { return pthread_atfork(NULL, NULL, forked) == 0; }

static bool hire(int workers) {
    if (pool.workers >= workers) return true;
    sigset_t every, before;  // signals are for the threads of Python
    sigfillset(&every);
    pthread_sigmask(SIG_BLOCK, &every, &before);
    while (pool.workers < workers) {
        pthread_t id;
        if (pthread_create(&id, NULL, work, (void *)(intptr_t)(pool.workers + 1))) break;
        pthread_detach(id);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.workers >= workers;
}

void pool_run(int threads, int parts, PoolJob job) {
    if (threads == 1 || atomic_flag_test_and_set(&pool.in_use)) {
        while (parts) {
            for (int t = 0; t < parts; t++) job.part(job.argument, t);
            parts = job.next(job.argument);
        }
        return;
    }
    hire(threads - 1);  // with fewer the parts are done all the same
    pool.job = job;
    open_phase(parts);
    while (!atomic_load(&pool.over)) {
        unsigned long long phase = atomic_load(&pool.phase);
        take_parts(phase, 0);
        if (!atomic_load(&pool.over)) wait_after(phase);
    }
    atomic_flag_clear(&pool.in_use);
}
