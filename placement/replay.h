/* What a server would have done with a trace: its documents arrive as requests, are batched, and
 * every step is timed by the model (step.h) under the plan in force.
 *
 * A request is a document: `homes_prompt` tokens of it are prefilled, each other token is a decode
 * step of its own, so that each token of a request is processed once. The cluster keeps `sequences`
 * requests in flight (a closed loop: one that ends is followed by the next at once). A rank takes
 * at most step_tokens tokens into a step: one of each decoding sequence that lives there, in turn;
 * what is left goes to prefills, oldest first, in chunks. Time is the sum of the steps.
 *
 * Homes. By load: the rank with the least to do, a prompt token to come counting 1 and a sequence
 * SEAT_TOKENS (64), as in the daemon. By affinity: as by load until the prompt is done; then the
 * rank of the least modelled traffic of the rest (its vectors like the prompt's, as many tokens as
 * requests that ended had on average) and of the prompt's KV on its way there, unless that rank
 * would then be home to more than (1 + home_slack) sequences / ranks. The step that ends the prompt
 * pays for the move. Without slack for one more sequence a rank there is little to choose from.
 *
 * Migration. A plan that `resolve` returns is copied beside the steps with migration_share of each
 * link: until score_migration's seconds are over the old plan serves, and what a step spends on
 * links takes 1 / (1 - share) as long (the last step in proportion); at a share of 1 steps wait.
 * The new plan serves from the first step after that. Solving goes on beside the steps, too:
 * copying begins with the first step after solve_seconds.
 *
 * Deterministic and pure; memory is bounded by sequences, the window and the plan. */
#ifndef MT_PLACEMENT_REPLAY_H
#define MT_PLACEMENT_REPLAY_H

#include "placement/placement.h"
#include "placement/step.h"

#define REPLAY_MAX_DOMAINS 256
#define REPLAY_MAX_SEGMENTS 4096
#define REPLAY_MAX_SEQUENCES (1u << 16)
#define REPLAY_MAX_WINDOW (1u << 22)

/* A part of the day: documents of one domain, in order and over again, go on where the domain's
 * last segment ended. It is over after as many tokens (of any domain) or seconds, whichever is not
 * 0; what is in flight then ends beside the next segment's first requests. */
struct replay_segment {
    uint32_t domain;
    uint64_t tokens;
    double seconds;
};

struct replay_step {
    uint64_t number;             /* from 0 */
    uint32_t segment, domain;    /* whose requests arrive */
    uint32_t prefill, decode;    /* tokens */
    double clock;                /* seconds at its end */
    double seconds;              /* step_seconds(&terms) + kv + slowed */
    struct step_terms terms;     /* with links that nothing else uses */
    double kv;                   /* moves of KV to homes by affinity */
    double slowed;               /* by a migration that goes on beside it */
    struct step_figures figures; /* per layer */
    bool migrated;               /* the next step has another plan */
};

/* What a policy sees when it is asked. */
struct replay_view {
    uint64_t steps, tokens; /* so far */
    double clock;
    uint32_t segment, domain;
    bool changed;               /* asked because a segment begins: for the clairvoyant */
    const struct plan *plan;    /* in force */
    const struct trace *window; /* the last tokens processed, a document for each sequence in the
                                   order of arrival; NULL if there are none or window is 0 */
    uint32_t step_tokens;       /* mean tokens of the steps since it was last asked, at least 1 */
};

struct replay_answer {
    bool change, free; /* another plan; at no cost, at once */
    struct plan plan;  /* if change: becomes the replay's */
};

struct replay {
    uint32_t domains;
    const struct trace *const *domain; /* of the problem's shape; borrowed */
    uint32_t segments;                 /* 0: each document of each domain once, in order */
    const struct replay_segment *segment;
    uint32_t sequences;                 /* B */
    uint32_t step_tokens;               /* budget of a rank and step */
    uint64_t every_tokens, every_steps; /* between calls of resolve; 0: none for that reason. Not
                                           while it solves or a migration goes on */
    double solve_seconds;               /* that resolve is taken to need; free answers need none */
    bool at_changes;                    /* resolve is called as each segment begins, too */
    uint32_t window;                    /* tokens */
    int (*resolve)(void *user, const struct replay_view *now, struct replay_answer *ret,
                   struct mt_err *reterr); /* NULL: never */
    /* After each step; false ends the replay, which is no error. NULL: nobody hears of it. */
    bool (*step)(void *user, const struct replay_step *s);
    void *user;
};

struct replay_totals {
    uint64_t steps, prefill, decode; /* tokens */
    uint64_t requests;               /* that ended */
    double seconds;                  /* = step_seconds(&terms) + kv + slowed */
    struct step_terms terms;
    double kv, slowed;
    struct step_figures figures;       /* per layer, mean over tokens */
    double first_steps, first_seconds; /* from a request's arrival to the end of its prompt: mean */
    uint64_t kv_moves;
    uint32_t resolves, migrations; /* calls; those that were begun and cost something */
    double moved_bytes;            /* of experts, by those migrations */
    double copying;                /* seconds of them */
};

/* p: cluster, shape, semantics (home only: flow is MT_EUNSUPPORTED), homes and prompts; its
 * scenarios are not looked at. plan is in force at the start. */
int replay_run(const struct place_problem *p, const struct replay *r, const struct plan *plan,
               struct replay_totals *ret, struct mt_err *reterr);

/* What policies need; the user of replay_solve and replay_known begins with it. */
struct replay_policy {
    const struct place_problem *problem; /* replay_run's */
    const struct place_method *method;
    struct place_run run;
    double horizon;           /* tokens that the next plan is expected to serve */
    const struct plan *known; /* [domains], borrowed: replay_known's */
};

/* A method's plan for steps of so many tokens of a trace. from: in force, or NULL. The steps of a
 * replay mix prefill and decode; of most sequences a step has one token, so that is what is
 * solved for. */
int replay_fit(const struct replay_policy *policy, const struct trace *t, uint32_t tokens,
               const struct plan *from, struct plan *ret, struct mt_err *reterr);
/* Policies, as replay.resolve. The method on the window, from the plan in force. */
int replay_solve(void *user, const struct replay_view *now, struct replay_answer *ret,
                 struct mt_err *reterr);
/* The clairvoyant: as a segment begins, its domain's known plan, at no cost. */
int replay_known(void *user, const struct replay_view *now, struct replay_answer *ret,
                 struct mt_err *reterr);

#endif
