#include "team.h"
#include <sched.h>

enum { SPINS = 1000 }; /* some 50 us, then a thread sleeps or lets others run */

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static bool work_on(team *t, int thread) {
    uint64_t seen = atomic_load(&t->ticket);
    while (seen & 0xffffffff) {
        if (!atomic_compare_exchange_weak(&t->ticket, &seen, seen - 1)) continue;
        t->run(t->what, t->tasks - (int)(seen & 0xffffffff), thread);
        atomic_fetch_add(&t->done, 1);
        return true;
    }
    return false;
}

static void *worker(void *arg) {
    struct worker *me = arg;
    team *t = me->team;
    int spins = 0;
    while (!atomic_load(&t->end)) {
        if (work_on(t, me->number)) {
            spins = 0;
        } else if (++spins < SPINS) {
            pause_briefly();
        } else {
            pthread_mutex_lock(&t->lock);
            atomic_fetch_add(&t->asleep, 1);
            while (!(atomic_load(&t->ticket) & 0xffffffff) && !atomic_load(&t->end))
                pthread_cond_wait(&t->work, &t->lock);
            atomic_fetch_sub(&t->asleep, 1);
            pthread_mutex_unlock(&t->lock);
            spins = 0;
        }
    }
    return NULL;
}

void share(team *t, int tasks, void (*run)(void *, int, int), void *what) {
    if (tasks <= 0) return;
    t->run = run, t->what = what, t->tasks = tasks;
    atomic_store(&t->done, 0);
    uint64_t number = (atomic_load(&t->ticket) >> 32) + 1;
    atomic_store(&t->ticket, number << 32 | (uint64_t)tasks);
    if (atomic_load(&t->asleep)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->work);
        pthread_mutex_unlock(&t->lock);
    }
    while (work_on(t, 0)) {}
    for (int spins = 0; atomic_load(&t->done) < tasks; spins++) {
        if (spins < SPINS) pause_briefly();
        else sched_yield();
    }
}

void *scratch(team *t, long bytes) {
    if ((size_t)bytes > t->scratch_bytes) {
        free(t->scratch);
        t->scratch = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
        t->scratch_bytes = t->scratch ? (size_t)bytes : 0;
    }
    return t->scratch;
}

void team_end(team *t) {
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->end, true);
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (int i = 1; i < t->threads; i++) pthread_join(t->workers[i].id, NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t->workers);
    free(t->scratch);
    free(t);
}

team *team_begin(int threads) {
    team *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->workers = calloc((size_t)threads, sizeof *t->workers);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    t->threads = 1;
    for (int i = 1; t->workers && i < threads; i++, t->threads++) {
        t->workers[i] = (struct worker){.team = t, .number = i};
        if (pthread_create(&t->workers[i].id, NULL, worker, &t->workers[i])) break;
    }
    if (t->threads == threads) return t;
    team_end(t);
    return NULL;
}
