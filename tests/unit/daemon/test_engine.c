/* The engine with the real job library and the fake worker, whose arithmetic (fake_model.h) says
 * what every request must get, and which checks every step. Requests come from several threads at
 * once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_world.h"
#include "tests/fake/fake_model.h"

/* --- many at once ------------------------------------------------------------------------------
 */

struct client {
    struct world *world;
    unsigned seed;
    uint32_t n, rejected;
};

static struct request *random_request(unsigned *seed)
{
    struct request_params p = world_plain;
    uint32_t n_prompt = 1 + (uint32_t)rand_r(seed) % 90;

    p.max_tokens = 1 + (uint32_t)rand_r(seed) % 40;
    p.n = 1 + (rand_r(seed) % 4 ? 0 : (uint32_t)rand_r(seed) % 3);
    p.temperature = (float)(rand_r(seed) % 2);
    p.seed = (uint64_t)rand_r(seed);
    p.n_logprobs = rand_r(seed) % 4 - 1;
    p.prompt_logprobs = rand_r(seed) % 4 == 0;
    return world_make(&p, n_prompt, (uint32_t)rand_r(seed));
}

static void *client_main(void *user)
{
    struct client *c = user;
    struct mt_err err;
    uint32_t i;
    int rc;

    for (i = 0; i < c->n; i++) {
        struct request *r = random_request(&c->seed);
        bool cancel = rand_r(&c->seed) % 5 == 0;

        while ((rc = engine_submit(c->world->engine, r, &err)) == MT_ELIMIT) {
            c->rejected++;
            usleep(500);
        }
        assert_int_equal(rc, 0);
        if (cancel) {
            world_await_tokens(r, (uint32_t)rand_r(&c->seed) % 4);
            engine_cancel(c->world->engine, r);
        }
        world_await_done(r);
        engine_cancel(c->world->engine, r); /* too late: no harm */
        if (!cancel || r->choices[0].finish == FINISH_LENGTH)
            world_check(r);
        world_drop(r);
    }
    return NULL;
}

static void many(struct world *w, uint32_t ranks)
{
    struct client clients[8];
    pthread_t threads[8];
    struct engine_status s;
    uint32_t i;

    w->options.job.ranks = ranks;
    w->options.max_queued_requests = 3;
    world_start(w);
    for (i = 0; i < 8; i++) {
        clients[i] = (struct client){.world = w, .seed = i * 31 + 1, .n = 30};
        assert_int_equal(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    for (i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    world_await_fewer(w, 1);
    engine_status(w->engine, &s);
    assert_int_equal(s.state, ENGINE_READY);
    assert_int_equal(s.restarts, 0);
}

static void test_many_requests(void **state)
{
    many(*state, 1);
}

static void test_many_ranks(void **state)
{
    many(*state, 2);
}

/* --- ends ---------------------------------------------------------------------------------------
 */

static void test_cancel(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *r, *waiting, *next;

    setenv("FAKE_STEP_MS", "5", 1);
    w->options.job.max_seqs = 1;
    world_start_ready(w);
    p.max_tokens = 240;
    r = world_make(&p, 10, 1);
    waiting = world_make(&p, 10, 2);
    next = world_make(&world_plain, 10, 3);
    assert_int_equal(engine_submit(w->engine, r, NULL), 0);
    world_await_tokens(r, 3);
    assert_int_equal(engine_submit(w->engine, waiting, NULL), 0);
    assert_int_equal(engine_submit(w->engine, next, NULL), 0);
    engine_cancel(w->engine, waiting); /* in the queue */
    world_await_done(waiting);
    assert_int_equal(waiting->choices[0].finish, FINISH_ABORT);
    assert_int_equal(waiting->err.status, 0);
    engine_cancel(w->engine, r); /* in flight; next gets its place */
    engine_cancel(w->engine, r);
    world_await_done(r);
    assert_int_equal(r->choices[0].finish, FINISH_ABORT);
    assert_true(r->choices[0].n_tokens < 240);
    world_await_done(next);
    world_check(next);
    world_await_fewer(w, 1);
    world_assert_logged(w, "finish=abort");
    world_drop(r);
    world_drop(waiting);
    world_drop(next);
}

static void test_deadline(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *late, *waiting;

    setenv("FAKE_STEP_MS", "10", 1);
    w->options.job.max_seqs = 1;
    world_start_ready(w);
    p.max_tokens = 240;
    p.deadline_ms = 200;
    late = world_make(&p, 10, 1);
    waiting = world_make(&p, 10, 2);
    assert_int_equal(engine_submit(w->engine, late, NULL), 0);
    assert_int_equal(engine_submit(w->engine, waiting, NULL), 0);
    world_await_done(late);
    world_await_done(waiting);
    assert_int_equal(late->err.status, MT_ETIMEOUT);
    assert_int_equal(late->choices[0].finish, FINISH_ERROR);
    assert_true(late->choices[0].n_tokens < 240);
    assert_int_equal(waiting->err.status, MT_ETIMEOUT);
    assert_int_equal(waiting->choices[0].n_tokens, 0);
    assert_true(late->done_us - late->submitted_us >= 200000);
    world_drop(late);
    world_drop(waiting);
}

/* End of sequence: found one step late, never shown, and the rest of the engine goes on. */
static void test_eos(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct wire_admit admit = {0};
    struct request *r, *through;
    char eos[16];
    int32_t token;
    uint32_t i;

    p.max_tokens = 20;
    r = world_make(&p, 10, 1);
    token = r->prompt[9];
    for (i = 0; i < 6; i++)
        token = fake_next(token, 9 + i, &admit, VOCAB);
    snprintf(eos, sizeof(eos), "%d", token);
    setenv("FAKE_EOS", eos, 1);
    world_start_ready(w);
    p.ignore_eos = true;
    through = world_make(&p, 10, 1);
    assert_int_equal(engine_submit(w->engine, r, NULL), 0);
    assert_int_equal(engine_submit(w->engine, through, NULL), 0);
    world_await_done(r);
    world_await_done(through);
    assert_int_equal(r->choices[0].finish, FINISH_STOP);
    assert_int_equal(r->choices[0].n_tokens, 5);
    world_check(through);
    world_drop(r);
    world_drop(through);
}

/* Nothing to generate: at once without logprobs, with a prefill with them. */
static void test_echo_only(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *quick, *logprobs, *least;
    uint32_t i;

    world_start_ready(w);
    p.max_tokens = 0;
    p.n = 2;
    quick = world_make(&p, 100, 1);
    p.n_logprobs = 2;
    p.prompt_logprobs = true;
    logprobs = world_make(&p, 100, 2); /* more than one step's tokens */
    least = world_make(&p, 1, 3);      /* there is nothing to run for it */
    assert_int_equal(engine_submit(w->engine, quick, NULL), 0);
    assert_int_equal(engine_submit(w->engine, logprobs, NULL), 0);
    assert_int_equal(engine_submit(w->engine, least, NULL), 0);
    world_await_done(quick);
    world_await_done(least);
    assert_int_equal(least->choices[1].finish, FINISH_LENGTH);
    world_drop(least);
    world_await_done(logprobs);
    for (i = 0; i < 2; i++) {
        assert_int_equal(quick->choices[i].finish, FINISH_LENGTH);
        assert_int_equal(logprobs->choices[i].finish, FINISH_LENGTH);
        assert_int_equal(logprobs->choices[i].n_tokens, 0);
    }
    assert_int_equal(logprobs->n_prompt_tokens, 100);
    for (i = 1; i < 100; i++) {
        assert_true(logprobs->prompt_tokens[i].logprob == -0.5f);
        assert_int_equal(logprobs->prompt_tokens[i].n_top, 2);
        assert_int_equal(logprobs->prompt_tops[logprobs->prompt_tokens[i].top_at + 1].token, 1);
    }
    world_drop(quick);
    world_drop(logprobs);
}

/* --- limits -------------------------------------------------------------------------------------
 */

static void test_queue_limits(void **state)
{
    struct world *w = *state;
    struct request *r[4];
    struct engine_status s;
    struct mt_err err;
    uint32_t i;

    setenv("FAKE_LOAD_MS", "300", 1);
    w->options.max_queued_requests = 3;
    w->options.max_queued_tokens = 100;
    world_start(w);
    for (i = 0; i < 4; i++)
        r[i] = world_make(&world_plain, i == 2 ? 60 : 30, i);
    assert_int_equal(engine_submit(w->engine, r[0], &err), 0);
    assert_int_equal(engine_submit(w->engine, r[1], &err), 0);
    assert_int_equal(engine_submit(w->engine, r[2], &err), MT_ELIMIT);
    assert_non_null(strstr(err.text, "limit of 100"));
    assert_int_equal(engine_submit(w->engine, r[3], &err), 0);
    engine_status(w->engine, &s);
    assert_int_equal(s.state, ENGINE_STARTING);
    assert_int_equal(s.waiting, 3);
    for (i = 0; i < 4; i++) {
        if (i != 2) { /* that one was never taken */
            world_await_done(r[i]);
            world_check(r[i]);
        }
        world_drop(r[i]);
    }
}

/* What can never run is refused, before the model is known (through the request) and after (at
 * once). */
static void test_never(void **state)
{
    struct world *w = *state;
    struct request *early, *late, *odd;
    struct mt_err err;

    setenv("FAKE_LOAD_MS", "200", 1);
    world_start(w);
    early = world_make(&world_plain, MAX_POSITIONS, 1);
    assert_int_equal(engine_submit(w->engine, early, &err), 0);
    world_await_done(early);
    assert_int_equal(early->err.status, MT_EINVAL);
    assert_non_null(strstr(early->err.text, "longest sequence is 256"));
    late = world_make(&world_plain, MAX_POSITIONS, 1);
    assert_int_equal(engine_submit(w->engine, late, &err), MT_EINVAL);
    odd = world_make(&world_plain, 10, 1);
    odd->prompt[7] = VOCAB;
    assert_int_equal(engine_submit(w->engine, odd, &err), MT_EINVAL);
    assert_non_null(strstr(err.text, "token 7 is 384"));
    world_drop(early);
    world_drop(late);
    world_drop(odd);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_many_requests), TEST(test_many_ranks), TEST(test_cancel),
        TEST(test_deadline),      TEST(test_eos),        TEST(test_echo_only),
        TEST(test_queue_limits),  TEST(test_never),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
