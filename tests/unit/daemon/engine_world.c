#include "engine_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/fake/fake_model.h"

/* What a request's notify wakes. */
struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint32_t calls;
};

static void on_log(void *user, int level, const char *event, const char *fields)
{
    struct world *w = user;
    size_t n;

    (void)level;
    pthread_mutex_lock(&w->lock);
    n = strlen(w->log);
    snprintf(w->log + n, sizeof(w->log) - n, "%s %s\n", event, fields);
    pthread_mutex_unlock(&w->lock);
}

void world_assert_logged(struct world *w, const char *text)
{
    pthread_mutex_lock(&w->lock);
    if (!strstr(w->log, text))
        print_error("\"%s\" is not in the log:\n%s", text, w->log);
    assert_non_null(strstr(w->log, text));
    pthread_mutex_unlock(&w->lock);
}

int world_set_up(void **state)
{
    static const char *const variables[] = {"FAKE_FAULT",   "FAKE_ONLY",      "FAKE_LOAD_MS",
                                            "FAKE_STEP_MS", "FAKE_KV_BLOCKS", "FAKE_EOS"};
    struct world *w = calloc(1, sizeof(*w));
    ssize_t n;
    size_t i;

    assert_non_null(w);
    for (i = 0; i < sizeof(variables) / sizeof(*variables); i++)
        unsetenv(variables[i]);
    snprintf(w->base, sizeof(w->base), "/tmp/test-engine-XXXXXX");
    assert_non_null(mkdtemp(w->base));
    setenv("TMPDIR", w->base, 1);
    n = readlink("/proc/self/exe", w->worker, 400);
    assert_true(n > 0);
    *strrchr(w->worker, '/') = 0; /* build/unit/daemon */
    n = (ssize_t)strlen(w->worker);
    snprintf(w->worker + n, sizeof(w->worker) - (size_t)n, "/../../tests/fake/fake_worker");
    w->metrics = metrics_new();
    assert_non_null(w->metrics);
    pthread_mutex_init(&w->lock, NULL);
    w->options = (struct engine_options){
        .job = {.worker = w->worker,
                .model = "/nowhere",
                .backend = "cpu",
                .numerics = "exact",
                .ranks = 1,
                .threads = 1,
                .step_tokens = 48,
                .max_seqs = 8,
                .start_ms = PATIENCE_MS},
        .max_queued_requests = 1000,
        .max_queued_tokens = 1000000,
        .relaunch_min_ms = 1,
        .relaunch_max_ms = 50,
        .recovery_ms = PATIENCE_MS,
        .max_deaths = 3,
        .priority_ms = 1000,
        .metrics = w->metrics,
        .log = on_log,
        .log_user = w,
    };
    *state = w;
    return 0;
}

int world_tear_down(void **state)
{
    struct world *w = *state;

    engine_free(w->engine);
    metrics_free(w->metrics);
    assert_int_equal(rmdir(w->base), 0); /* nothing is left in it */
    pthread_mutex_destroy(&w->lock);
    free(w);
    return 0;
}

void world_start(struct world *w)
{
    struct mt_err err = {0};

    if (engine_start(&w->options, &w->engine, &err))
        fail_msg("engine_start: %s", err.text);
}

void world_start_ready(struct world *w)
{
    world_start(w);
    assert_int_equal(engine_wait_ready(w->engine, PATIENCE_MS), ENGINE_READY);
}

static void on_notify(struct request *r, void *user)
{
    struct waiter *waiter = user;

    (void)r;
    pthread_mutex_lock(&waiter->lock);
    waiter->calls++;
    pthread_cond_broadcast(&waiter->cond);
    pthread_mutex_unlock(&waiter->lock);
}

const struct request_params world_plain = {
    .max_tokens = 8, .top_p = 1, .n = 1, .n_logprobs = -1, .has_seed = true};

struct request *world_make(const struct request_params *p, uint32_t n_prompt, uint32_t salt)
{
    int32_t *prompt = calloc(n_prompt, sizeof(*prompt));
    struct waiter *waiter = calloc(1, sizeof(*waiter));
    struct request *r = NULL;
    uint32_t i;

    assert_true(prompt && waiter);
    for (i = 0; i < n_prompt; i++)
        prompt[i] = (int32_t)((i * 37 + salt * 11) % VOCAB);
    pthread_mutex_init(&waiter->lock, NULL);
    pthread_cond_init(&waiter->cond, NULL);
    assert_int_equal(request_new("cmpl", p, prompt, n_prompt, &r, NULL), 0);
    r->notify = on_notify;
    r->user = waiter;
    return r;
}

bool world_is_done(struct request *r)
{
    bool done;

    pthread_mutex_lock(&r->lock);
    done = r->done;
    pthread_mutex_unlock(&r->lock);
    return done;
}

static uint32_t n_tokens(struct request *r)
{
    uint32_t n;

    pthread_mutex_lock(&r->lock);
    n = r->choices[0].n_tokens;
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* Waits until the request is done, or has produced that many tokens. */
void world_await_tokens(struct request *r, uint32_t n)
{
    struct waiter *waiter = r->user;
    struct timespec until;
    bool enough;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    pthread_mutex_lock(&waiter->lock);
    while (!(enough = world_is_done(r) || n_tokens(r) >= n) && !rc)
        rc = pthread_cond_timedwait(&waiter->cond, &waiter->lock, &until);
    pthread_mutex_unlock(&waiter->lock);
    assert_true(enough);
}

void world_await_done(struct request *r)
{
    world_await_tokens(r, UINT32_MAX);
}

/* The last notify may come just after a reader saw the end: until nobody else refers to it. */
void world_drop(struct request *r)
{
    struct waiter *waiter = r->user;

    while (__atomic_load_n(&r->refs, __ATOMIC_ACQUIRE) > 1)
        usleep(100);
    request_unref(r);
    pthread_mutex_destroy(&waiter->lock);
    pthread_cond_destroy(&waiter->cond);
    free(waiter);
}

/* Blocks until fewer than n requests run or wait. */
void world_await_fewer(struct world *w, uint32_t n)
{
    struct engine_status s;
    int i;

    for (i = 0; i < PATIENCE_MS; i++) {
        engine_status(w->engine, &s);
        if (s.running + s.waiting < n)
            return;
        usleep(1000);
    }
    fail_msg("still %u running and %u waiting", s.running, s.waiting);
}

void world_await_state(struct world *w, enum engine_state state, uint64_t incarnation)
{
    struct engine_status s;
    int i;

    for (i = 0; i < PATIENCE_MS; i++) {
        engine_status(w->engine, &s);
        if (s.state == state && s.incarnation >= incarnation)
            return;
        usleep(1000);
    }
    fail_msg("state %d of incarnation %" PRIu64 ": %s", s.state, s.incarnation, s.text);
}

static void check_choice(const struct request *r, uint32_t which)
{
    const struct request_params *p = &r->params;
    const struct choice *c = &r->choices[which];
    struct wire_admit admit = {.temperature = p->temperature, .seed = p->seed, .choice = which};
    int32_t token = r->prompt[r->n_prompt - 1];
    uint32_t i, k;

    assert_int_equal(c->finish, FINISH_LENGTH);
    assert_int_equal(c->n_tokens, p->max_tokens);
    for (i = 0; i < c->n_tokens; i++) {
        token = fake_next(token, r->n_prompt - 1 + i, &admit, VOCAB);
        assert_int_equal(c->tokens[i].token, token);
        if (p->n_logprobs < 0)
            continue;
        assert_true(c->tokens[i].logprob == -0.5f);
        assert_int_equal(c->tokens[i].n_top, p->n_logprobs);
        for (k = 0; k < c->tokens[i].n_top; k++)
            assert_int_equal(c->tops[c->tokens[i].top_at + k].token, k);
    }
}

void world_check(struct request *r)
{
    uint32_t i;

    pthread_mutex_lock(&r->lock);
    if (r->err.status)
        print_error("%s: %s\n", r->id, r->err.text);
    assert_int_equal(r->err.status, 0);
    assert_int_equal(r->n_finished, r->params.n);
    for (i = 0; i < r->params.n; i++)
        check_choice(r, i);
    if (r->params.prompt_logprobs) {
        assert_int_equal(r->n_prompt_tokens, r->n_prompt);
        for (i = 0; i < r->n_prompt; i++) {
            assert_int_equal(r->prompt_tokens[i].token, r->prompt[i]);
            assert_true(r->prompt_tokens[i].logprob == (i ? -0.5f : 0));
        }
    }
    assert_true(r->submitted_us <= r->first_token_us && r->first_token_us <= r->done_us);
    pthread_mutex_unlock(&r->lock);
}
