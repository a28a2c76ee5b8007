/* Threads that share the work of a call, and memory for it. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Tasks are claimed one by one, so that a thread whose core was taken away holds up nobody. */
typedef struct {
    void (*run)(void *what, int task, int thread);
    void *what;
    _Atomic uint64_t ticket; /* number of the job << 32 | tasks that nobody has claimed */
    atomic_int done;
    int tasks, threads;
    pthread_mutex_t lock;
    pthread_cond_t work;
    atomic_int asleep;
    atomic_bool end;
    char *scratch; /* kept, as fresh pages take a tenth of a step's time */
    size_t scratch_bytes;
    struct worker { void *team; int number; pthread_t id; } *workers;
} team;

#pragma GCC visibility push(hidden)

/* Runs tasks 0 to `tasks` - 1, each on one of the threads; returns when all are done. */
void share(team *t, int tasks, void (*run)(void *what, int task, int thread), void *what);

/* Memory of the calls of a team, of which one runs at a time. NULL where there is none. */
void *scratch(team *t, long bytes);

#pragma GCC visibility pop

/* A team of the calling thread and others. NULL where the system has no memory or no threads. */
team *team_begin(int threads);
void team_end(team *t);
