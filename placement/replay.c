#include "placement/replay.h"

#include <math.h>
#include <string.h>

#include "placement/replay_private.h"
#include "placement/score.h"

/* A replay under way. */
struct state {
    const struct place_problem *p;
    const struct replay *r;
    struct plan plan, next; /* in force; being copied */
    bool copying;
    double wait, left; /* seconds until copying begins; of copying to go */
    struct replay_batch batch;
    struct replay_window window;
    struct step *step;
    struct replay_totals total;
    uint32_t segment;
    uint64_t segment_tokens, asked_tokens, asked_steps; /* totals then */
    double segment_clock, solved; /* clocks: at its beginning; when the solver has its answer */
    uint64_t prompts;
    double first_steps, first_seconds;
    bool stopped;
};

static uint64_t tokens_of(const struct state *s)
{
    return s->total.prefill + s->total.decode;
}

/* ---- what is asked for ------------------------------------------------------------------------*/

static int check_number(const char *field, uint64_t value, uint64_t min, uint64_t max,
                        struct mt_err *reterr)
{
    if (value >= min && value <= max)
        return 0;
    return mt_error(reterr, MT_EINVAL, "replay: %s: expected %llu to %llu, found %llu", field,
                    (unsigned long long)min, (unsigned long long)max, (unsigned long long)value);
}

static int check_domains(const struct place_problem *p, const struct replay *r,
                         struct mt_err *reterr)
{
    for (uint32_t d = 0; d < r->domains; d++) {
        const struct trace *t = r->domain[d];

        if (t->layers != p->layers || t->experts != p->experts || t->topk != p->topk)
            return mt_error(reterr, MT_EINVAL,
                            "replay: %s: expected %u layers, %u experts, top-%u; found %u layers, "
                            "%u experts, top-%u",
                            t->name, p->layers, p->experts, p->topk, t->layers, t->experts,
                            t->topk);
        if (!t->documents)
            return mt_error(reterr, MT_EINVAL, "replay: %s: expected documents, found none",
                            t->name);
    }
    return 0;
}

static int check_segments(const struct replay *r, struct mt_err *reterr)
{
    for (uint32_t i = 0; i < r->segments; i++) {
        const struct replay_segment *g = &r->segment[i];

        if (g->domain >= r->domains)
            return mt_error(reterr, MT_EINVAL,
                            "replay: segment %u: expected a domain below %u, found %u", i,
                            r->domains, g->domain);
        if (!(g->seconds >= 0) || isinf(g->seconds) || (!g->tokens && g->seconds == 0))
            return mt_error(reterr, MT_EINVAL,
                            "replay: segment %u: expected tokens or seconds, found %llu and %g", i,
                            (unsigned long long)g->tokens, g->seconds);
    }
    return 0;
}

static int check(const struct place_problem *p, const struct replay *r, const struct plan *plan,
                 struct mt_err *reterr)
{
    uint64_t bytes = (uint64_t)r->window * p->layers * p->topk * sizeof *r->domain[0]->choice;
    int rc = place_fits(p, plan, reterr);

    if (!rc && p->semantics != PLACE_HOME)
        rc = mt_error(reterr, MT_EUNSUPPORTED,
                      "replay: expected home semantics: a sequence lives on one rank");
    if (!rc)
        rc = check_number("domains", r->domains, 1, REPLAY_MAX_DOMAINS, reterr);
    if (!rc)
        rc = check_number("segments", r->segments, 0, REPLAY_MAX_SEGMENTS, reterr);
    if (!rc)
        rc = check_number("sequences", r->sequences, 1, REPLAY_MAX_SEQUENCES, reterr);
    if (!rc)
        rc = check_number("tokens of a rank's step", r->step_tokens, 1, TRACE_MAX_TOKENS, reterr);
    if (!rc)
        rc = check_number("window", r->window, 0, REPLAY_MAX_WINDOW, reterr);
    if (!rc)
        rc = check_number("window's bytes", bytes, 0, TRACE_MAX_FILE, reterr);
    if (!rc && (!(r->solve_seconds >= 0) || isinf(r->solve_seconds)))
        rc = mt_error(reterr, MT_EINVAL, "replay: seconds to solve: expected 0 or more, found %g",
                      r->solve_seconds);
    if (!rc)
        rc = check_domains(p, r, reterr);
    return rc ? rc : check_segments(r, reterr);
}

/* ---- policies ---------------------------------------------------------------------------------*/

static void put_in_force(struct state *s)
{
    plan_done(&s->plan);
    s->plan = s->next;
    s->next = (struct plan){0};
    s->copying = false;
}

/* Takes over what the policy answered. */
static int take(struct state *s, struct replay_answer *a, struct mt_err *reterr)
{
    const struct cluster *c = &s->p->cluster;
    double moved;
    int rc = place_fits(s->p, &a->plan, reterr);

    if (rc) {
        plan_done(&a->plan);
        return rc;
    }
    plan_done(&s->next);
    s->next = a->plan;
    moved = a->free ? 0 : replay_moved(c, &s->plan, &s->next);
    s->wait = a->free ? 0 : s->r->solve_seconds;
    s->left = moved > 0 ? score_migration(c, &s->plan, &s->next) : 0;
    s->copying = s->wait > 0 || s->left > 0;
    if (moved > 0) {
        s->total.migrations++;
        s->total.moved_bytes += moved;
        s->total.copying += s->left;
    }
    if (!s->copying)
        put_in_force(s);
    return 0;
}

static int ask(struct state *s, bool changed, struct mt_err *reterr)
{
    uint64_t tokens = tokens_of(s) - s->asked_tokens, steps = s->total.steps - s->asked_steps;
    struct replay_view view = {.steps = s->total.steps,
                               .tokens = tokens_of(s),
                               .clock = s->total.seconds,
                               .segment = s->segment,
                               .domain = s->batch.domain,
                               .changed = changed,
                               .plan = &s->plan,
                               .step_tokens = steps ? (uint32_t)(tokens / steps) : 1};
    struct replay_answer answer = {0};
    struct trace seen = {0};
    int rc = 0;

    if (s->window.used) {
        rc = replay_window_trace(&s->window, s->r->domain, &seen, reterr);
        view.window = &seen;
    }
    if (!rc)
        rc = s->r->resolve(s->r->user, &view, &answer, reterr);
    trace_done(&seen);
    s->asked_tokens = tokens_of(s);
    s->asked_steps = s->total.steps;
    s->total.resolves++;
    if (!answer.free)
        s->solved = s->total.seconds + s->r->solve_seconds;
    if (!rc && answer.change)
        rc = take(s, &answer, reterr);
    return rc;
}

/* Whether a number of tokens or steps is over; a migration is waited for. */
static bool due(const struct state *s)
{
    const struct replay *r = s->r;

    if (!r->resolve || s->copying || !s->batch.n || s->total.seconds < s->solved)
        return false;
    return (r->every_tokens && tokens_of(s) - s->asked_tokens >= r->every_tokens) ||
           (r->every_steps && s->total.steps - s->asked_steps >= r->every_steps);
}

/* ---- steps ------------------------------------------------------------------------------------*/

/* Seconds that a step of `busy` seconds, `links` of them on links, loses to a migration. */
static double slow(struct state *s, double busy, double links)
{
    double share = s->p->cluster.migration_share, whole, part;

    if (!s->copying)
        return 0;
    if (s->wait > 0) {
        s->wait -= busy;
        return 0;
    }
    if (share >= 1) {
        part = s->left;
        s->left = 0;
        return part;
    }
    whole = busy + links * share / (1 - share);
    part = s->left < whole ? s->left / whole : 1;
    s->left = part < 1 ? 0 : s->left - whole;
    return part * (whole - busy);
}

static void per_layer(struct step_figures *f, uint32_t layers)
{
    f->load /= layers;
    f->active /= layers;
    f->ranks /= layers;
    f->remote /= layers;
    f->local /= layers;
}

static void add_terms(struct step_terms *sum, const struct step_terms *t)
{
    sum->dense += t->dense;
    sum->dispatch += t->dispatch;
    sum->compute += t->compute;
    sum->combine += t->combine;
}

static void add_figures(struct step_figures *sum, const struct step_figures *f, double weight)
{
    sum->load += weight * f->load;
    sum->active += weight * f->active;
    sum->ranks += weight * f->ranks;
    sum->remote += weight * f->remote;
    sum->local += weight * f->local;
}

static void count(struct state *s, const struct replay_step *now,
                  const struct replay_batch_step *done)
{
    struct replay_totals *t = &s->total;

    t->steps++;
    t->prefill += now->prefill;
    t->decode += now->decode;
    t->requests += done->ended;
    t->seconds = now->clock;
    add_terms(&t->terms, &now->terms);
    t->kv += now->kv;
    t->slowed += now->slowed;
    add_figures(&t->figures, &now->figures, (double)now->prefill + now->decode);
    t->kv_moves += done->kv_moves;
    s->prompts += done->prompts;
    s->first_steps += done->first_steps;
    s->first_seconds += done->first_seconds;
}

static void run_step(struct state *s)
{
    struct replay_step now = {.number = s->total.steps, .segment = s->segment};
    struct replay_batch_step done;
    double busy;

    now.domain = s->batch.domain;
    step_begin(s->step, &s->plan);
    replay_batch_compose(&s->batch, s->step, &done);
    now.prefill = done.prefill;
    now.decode = done.decode;
    step_time(s->step, &now.terms, &now.figures, NULL);
    per_layer(&now.figures, s->p->layers);
    busy = step_seconds(&now.terms);
    replay_batch_finish(&s->batch, &s->plan, now.number + 1, s->total.seconds + busy, &done);
    now.kv = done.kv;
    now.slowed = slow(s, busy + now.kv, now.terms.dispatch + now.terms.combine + now.kv);
    now.seconds = busy + now.kv + now.slowed;
    now.clock = s->total.seconds + now.seconds;
    if (s->copying && s->wait <= 0 && s->left <= 0) {
        put_in_force(s);
        now.migrated = true;
    }
    count(s, &now, &done);
    s->stopped = s->r->step && !s->r->step(s->r->user, &now);
}

/* The first segment, or the next. */
static int begin_segment(struct state *s, struct mt_err *reterr)
{
    s->segment_tokens = tokens_of(s);
    s->segment_clock = s->total.seconds;
    if (s->segment == s->r->segments) {
        s->batch.closed = true;
        return 0;
    }
    s->batch.domain = s->r->segment[s->segment].domain;
    return s->r->resolve && s->r->at_changes && !s->copying ? ask(s, true, reterr) : 0;
}

static bool segment_over(const struct state *s)
{
    const struct replay_segment *g;

    if (s->segment >= s->r->segments)
        return false;
    g = &s->r->segment[s->segment];
    return (g->tokens && tokens_of(s) - s->segment_tokens >= g->tokens) ||
           (g->seconds > 0 && s->total.seconds - s->segment_clock >= g->seconds);
}

static int run(struct state *s, struct mt_err *reterr)
{
    int rc = s->r->segments ? begin_segment(s, reterr) : 0;

    while (!rc && !s->stopped && replay_batch_arrive(&s->batch, s->total.steps, s->total.seconds)) {
        double before = s->total.seconds;

        run_step(s);
        if (s->segment < s->r->segments && !s->r->segment[s->segment].tokens &&
            !(s->total.seconds > before))
            return mt_error(reterr, MT_EINVAL,
                            "replay: segment %u: a segment in seconds needs steps that take time, "
                            "found one of %g seconds",
                            s->segment, s->total.seconds - before);
        if (segment_over(s)) {
            s->segment++;
            rc = begin_segment(s, reterr);
        }
        if (!rc && !s->stopped && due(s))
            rc = ask(s, false, reterr);
    }
    return rc;
}

static void finish(struct state *s, struct replay_totals *ret)
{
    double tokens = (double)tokens_of(s);
    struct step_figures mean = {0};

    if (tokens > 0)
        add_figures(&mean, &s->total.figures, 1 / tokens);
    s->total.figures = mean;
    if (s->prompts) {
        s->total.first_steps = s->first_steps / (double)s->prompts;
        s->total.first_seconds = s->first_seconds / (double)s->prompts;
    }
    *ret = s->total;
}

int replay_run(const struct place_problem *p, const struct replay *r, const struct plan *plan,
               struct replay_totals *ret, struct mt_err *reterr)
{
    struct state s = {.p = p, .r = r};
    int rc = check(p, r, plan, reterr);

    if (rc)
        return rc;
    rc = plan_copy(plan, &s.plan, reterr);
    if (!rc)
        rc = step_new(p, &s.step, reterr);
    if (!rc)
        rc = replay_window_open(&s.window, r->window, reterr);
    if (!rc)
        rc = replay_batch_open(&s.batch, p, r, &s.window, reterr);
    if (!rc)
        rc = run(&s, reterr);
    if (!rc)
        finish(&s, ret);
    replay_batch_done(&s.batch);
    replay_window_done(&s.window);
    step_free(s.step);
    plan_done(&s.plan);
    plan_done(&s.next);
    return rc;
}
