/* The parts of a replay: who is in flight, and what was seen. */
#ifndef MT_PLACEMENT_REPLAY_PRIVATE_H
#define MT_PLACEMENT_REPLAY_PRIVATE_H

#include "placement/replay.h"

struct replay_sequence {
    uint64_t id;                                  /* in the order of arrival */
    uint32_t domain, first, length, prompt, done; /* tokens; first: of the domain's trace */
    uint16_t home;
    bool prompted;  /* the prompt is done, and told */
    uint64_t steps; /* before it arrived */
    double clock;   /* at its arrival */
};

/* The last tokens that were processed: a ring. */
struct replay_window_entry {
    uint64_t sequence;
    uint32_t domain, token;
};

struct replay_window {
    uint32_t cap, used, next;
    struct replay_window_entry *entry, *sorted; /* [cap] */
};

int replay_window_open(struct replay_window *w, uint32_t cap, struct mt_err *reterr);
void replay_window_add(struct replay_window *w, const struct replay_sequence *s, uint32_t token);
/* used > 0; the result is the caller's. */
int replay_window_trace(const struct replay_window *w, const struct trace *const *domain,
                        struct trace *ret, struct mt_err *reterr);
void replay_window_done(struct replay_window *w);

/* Sequences in flight and requests to come. */
struct replay_batch {
    const struct place_problem *p;
    const struct replay *r;
    struct replay_window *window;
    uint32_t n;
    struct replay_sequence *sequence; /* [n of r->sequences] in the order of arrival */
    uint32_t *living, *budget;        /* [ranks] sequences; tokens left in the step */
    uint64_t *waiting;                /* [ranks] prompt tokens to come */
    uint32_t *cursor;                 /* [domains] next document */
    uint32_t domain;                  /* whose documents arrive */
    bool closed;                      /* none arrive any more */
    uint64_t arrived, turn;
    uint64_t ended, decoded; /* requests, and their tokens after the prompt */
    double *kv;              /* [ranks][ranks] bytes of KV that a step moves, from and to */
    bool kv_moves;
};

/* What a step did besides the tokens that it added. */
struct replay_batch_step {
    uint32_t prefill, decode;
    double kv;
    uint32_t kv_moves, ended, prompts;
    double first_steps, first_seconds; /* sums over prompts that ended */
};

int replay_batch_open(struct replay_batch *b, const struct place_problem *p, const struct replay *r,
                      struct replay_window *w, struct mt_err *reterr);
/* Fills free places; steps and clock: so far. False if nothing is in flight. */
bool replay_batch_arrive(struct replay_batch *b, uint64_t steps, double clock);
/* Adds a step's tokens to s, which was begun with the plan. */
void replay_batch_compose(struct replay_batch *b, struct step *s, struct replay_batch_step *ret);
/* The end of a step: homes by affinity, and who leaves. steps: with this one; clock: at its end,
 * without what kv, which is set here, adds. */
void replay_batch_finish(struct replay_batch *b, const struct plan *plan, uint64_t steps,
                         double clock, struct replay_batch_step *ret);
void replay_batch_done(struct replay_batch *b);

/* Bytes of the experts that `to` has where `from` has none. */
double replay_moved(const struct cluster *c, const struct plan *from, const struct plan *to);

#endif
