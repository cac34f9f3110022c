/* Which rank should hold which expert: the problem, and what solves it.
 *
 * The library is pure: no threads, clocks, processes, MPI or HTTP, and it does not log. Whoever
 * calls keeps the time, and says through `place_run.stop` when to end. Every function may be called
 * from any thread, with objects of its own; lp_solve is used by one thread of a process at a time.
 *
 * The objective (score.h has it whole):
 *     J = sum_s w_s T_s / n_s + T_mig / H        seconds per token
 * s: scenarios, w_s their shares (their sum is 1), T_s the time of a step of n_s tokens, H the
 * horizon in tokens. */
#ifndef MT_PLACEMENT_PLACEMENT_H
#define MT_PLACEMENT_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/status.h"
#include "placement/cluster.h"
#include "placement/plan.h"
#include "placement/trace.h"

#define PLACE_MAX_LAYERS 96
#define PLACE_MAX_EXPERTS 512
#define PLACE_MAX_SCENARIOS 64

enum place_phase { PLACE_PREFILL, PLACE_DECODE };
enum place_semantics { PLACE_HOME, PLACE_FLOW };
enum place_homes { PLACE_HOMES_LOAD, PLACE_HOMES_AFFINITY };

/* One kind of work: a phase of one domain. */
struct place_scenario {
    char name[TRACE_NAME];
    enum place_phase phase;
    double share;              /* w_s */
    uint32_t tokens;           /* n_s: tokens of a step over all ranks (decode: sequences) */
    const struct trace *trace; /* borrowed; NULL: only loads are known, and traffic is not priced */
    const double *load;        /* [layers][experts] mean choices per token; borrowed, never NULL */
};

struct place_problem {
    uint32_t layers, experts, topk;
    struct cluster cluster;
    uint32_t scenarios;
    struct place_scenario scenario[PLACE_MAX_SCENARIOS];
    const struct plan *from; /* in force; NULL: none, and nothing is charged for migration */
    double horizon;          /* H, tokens; 0: migration is free */
    enum place_semantics semantics;
    enum place_homes homes;
    double prompt_fraction; /* of a document; used unless prompt_tokens > 0 */
    uint32_t prompt_tokens;
    double home_slack; /* eps: a home's tokens are at most (1 + eps) of the mean */
};

/* Names the field, what was found and what was expected. What else takes a problem relies on it. */
int place_check(const struct place_problem *p, struct mt_err *reterr);
/* A plan of the problem's shape that fits the slots; the text names layer, rank and copies. */
int place_fits(const struct place_problem *p, const struct plan *plan, struct mt_err *reterr);

struct place_progress {
    const char *stage; /* "search", "columns", ...; static */
    double objective;  /* of the best plan so far; search's own estimate, seconds per token */
    double bound;      /* 0: none yet */
    uint64_t iterations;
};

/* How long, and who hears of it. */
struct place_run {
    uint64_t seed;
    uint64_t iterations; /* search moves; 0: until stop. With it a result depends on seed alone */
    bool plain;          /* fit the traces as they are: no resampling, no cross-validation */
    bool skip_bound;     /* someone else looks for the bound: all time is for plans */
    double gap;          /* stop when the proven gap is at most this; 0: never */
    bool (*stop)(void *user);    /* NULL: never */
    double (*spent)(void *user); /* part of the time that is gone, 0 to 1, so that what remains can
                                    be divided; NULL: not known */
    void (*progress)(void *user, const struct place_progress *now); /* NULL: nobody */
    void *user;
};

struct place_result {
    struct plan plan;     /* owned */
    const char *method;   /* static */
    bool optimal;         /* proven for what the method minimises */
    double objective;     /* fluid J on the problem's traces */
    double bound;         /* of the same; 0 with no_bound set */
    const char *no_bound; /* why there is none; NULL if there is one; static */
    uint64_t iterations;
    char note[256]; /* what a reader of the plan should know, "" if nothing */
};

/* A method of the table that `moetuner place` knows. Refuses what it is not defined for
 * (MT_EUNSUPPORTED). Always returns a plan that place_fits, or an error. */
struct place_method {
    const char *name, *help;
    int (*solve)(const struct place_problem *p, const struct place_run *run,
                 struct place_result *ret, struct mt_err *reterr);
};

/* joint, moetuner, contiguous, random, eplb, ...; ends with a NULL name. */
extern const struct place_method PLACE_METHODS[];

void place_result_done(struct place_result *r);

#endif
