/* The engine's life: jobs that die or never start, drains and stops, and what it tells meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine_world.h"

/* --- death --------------------------------------------------------------------------------------
 */

/* The job dies in step 6: what ran goes on in the next incarnation as if nothing had happened, and
 * what waited runs there, too. */
static void death(struct world *w, const char *fault, const char *why)
{
    struct request_params p = world_plain, q = world_plain;
    struct request *r[3];
    struct engine_status s;
    int i;

    setenv("FAKE_FAULT", fault, 1);
    setenv("FAKE_ONLY", "1", 1);
    setenv("FAKE_KV_BLOCKS", "16", 1);
    w->options.job.step_ms = 1000;
    world_start_ready(w);
    p.max_tokens = 200;
    q.n = 2;
    q.temperature = 1;
    q.n_logprobs = 2;
    q.prompt_logprobs = true;
    q.max_tokens = 100;
    r[0] = world_make(&p, 20, 1);
    r[1] = world_make(&q, 90, 3);
    r[2] = world_make(&p, 20, 2);
    for (i = 0; i < 3; i++)
        assert_int_equal(engine_submit(w->engine, r[i], NULL), 0);
    for (i = 0; i < 3; i++) {
        world_await_done(r[i]);
        world_check(r[i]);
        world_drop(r[i]);
    }
    engine_status(w->engine, &s);
    assert_int_equal(s.state, ENGINE_READY);
    assert_int_equal(s.incarnation, 2);
    assert_int_equal(s.restarts, 1);
    assert_string_equal(s.text, "");
    world_assert_logged(w, "job_died incarnation=1 retry_ms=0");
    world_assert_logged(w, why);
    world_assert_logged(w, "job_ready incarnation=2");
}

/* Each job answers a few steps and dies: a request that gets its tokens is not given up. */
static void test_death_again_and_again(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct engine_status s;
    struct request *r;

    setenv("FAKE_FAULT", "kill@9", 1);
    p.max_tokens = 60;
    world_start_ready(w);
    r = world_make(&p, 20, 1);
    assert_int_equal(engine_submit(w->engine, r, NULL), 0);
    world_await_done(r);
    world_check(r);
    engine_status(w->engine, &s);
    assert_true(s.restarts > w->options.max_deaths);
    world_drop(r);
}

/* A request on which every job dies before it has got a token is given up; others are not. */
static void test_deadly_request(void **state)
{
    struct world *w = *state;
    struct request *r, *after;

    setenv("FAKE_FAULT", "kill@1", 1);
    world_start_ready(w);
    r = world_make(&world_plain, 20, 1);
    after = world_make(&world_plain, 20, 2);
    assert_int_equal(engine_submit(w->engine, r, NULL), 0);
    world_await_done(r);
    assert_int_equal(r->choices[0].finish, FINISH_ERROR);
    assert_int_equal(r->err.status, MT_ECLOSED);
    assert_non_null(strstr(r->err.text, "3 worker jobs have died"));
    unsetenv("FAKE_FAULT");
    assert_int_equal(engine_submit(w->engine, after, NULL), 0);
    world_await_done(after);
    world_check(after);
    world_drop(r);
    world_drop(after);
}

/* The job dies and cannot come back: after the recovery deadline its requests end with the reason,
 * new ones are refused, until it can. */
static void test_lost_and_found(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *running, *refused, *after;
    struct mt_err err;

    w->options.recovery_ms = 100;
    setenv("FAKE_FAULT", "kill@6", 1);
    world_start_ready(w);
    setenv("FAKE_FAULT", "exit@0", 1);
    p.max_tokens = 100;
    running = world_make(&p, 20, 1);
    refused = world_make(&p, 20, 2);
    after = world_make(&p, 20, 3);
    assert_int_equal(engine_submit(w->engine, running, NULL), 0);
    world_await_done(running);
    assert_int_equal(running->choices[0].finish, FINISH_ERROR);
    assert_int_equal(running->err.status, MT_ECLOSED);
    assert_non_null(strstr(running->err.text, "cannot go on"));
    world_await_state(w, ENGINE_LOST, 2);
    assert_int_equal(engine_submit(w->engine, refused, &err), MT_ECLOSED);
    assert_non_null(strstr(err.text, "cannot be restarted"));
    unsetenv("FAKE_FAULT");
    world_await_state(w, ENGINE_READY, 3);
    assert_int_equal(engine_submit(w->engine, after, NULL), 0);
    world_await_done(after);
    world_check(after);
    world_drop(running);
    world_drop(refused);
    world_drop(after);
}

static void test_death_kill(void **state)
{
    death(*state, "kill@6", "signal 9");
}

static void test_death_fail(void **state)
{
    death(*state, "fail@6", "layer 3: told to fail");
}

static void test_death_hang(void **state)
{
    death(*state, "hang@6", "step 6");
}

static void test_death_wrong(void **state)
{
    death(*state, "wrong@6", "step");
}

/* A job that cannot start: DOWN with the reason, tried again and again; then given up. */
static void test_no_start(void **state)
{
    struct world *w = *state;
    struct engine_status s;
    struct request *r = world_make(&world_plain, 5, 1);
    struct mt_err err;

    setenv("FAKE_FAULT", "exit@0", 1);
    w->options.recovery_ms = 100;
    world_start(w);
    assert_int_equal(engine_wait_ready(w->engine, PATIENCE_MS), ENGINE_DOWN);
    engine_status(w->engine, &s);
    assert_non_null(strstr(s.text, "cannot go on"));
    assert_false(s.have_facts);
    world_await_state(w, ENGINE_LOST, 3);
    assert_int_equal(engine_submit(w->engine, r, &err), MT_ECLOSED);
    world_drop(r);
}

/* --- drain --------------------------------------------------------------------------------------
 */

static void test_drain(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *running, *waiting, *late;
    struct mt_err err;

    setenv("FAKE_STEP_MS", "2", 1);
    w->options.job.max_seqs = 1;
    world_start_ready(w);
    p.max_tokens = 200;
    running = world_make(&p, 20, 1);
    waiting = world_make(&world_plain, 100, 2);
    late = world_make(&world_plain, 5, 3);
    assert_int_equal(engine_submit(w->engine, running, NULL), 0);
    assert_int_equal(engine_submit(w->engine, waiting, NULL), 0);
    world_await_tokens(running, 1);
    engine_drain(w->engine, PATIENCE_MS);
    assert_int_equal(engine_wait_ready(w->engine, 0), ENGINE_DRAINING);
    assert_int_equal(engine_submit(w->engine, late, &err), MT_ECLOSED);
    assert_non_null(strstr(err.text, "shutting down"));
    world_await_done(running);
    world_await_done(waiting);
    world_check(running);
    world_check(waiting);
    world_await_state(w, ENGINE_STOPPED, 1);
    world_drop(running);
    world_drop(waiting);
    world_drop(late);
}

/* A drain's deadline, cut short by a second drain: what is left ends with an error. */
static void test_stop_now(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *r[3];
    uint32_t i;

    setenv("FAKE_STEP_MS", "20", 1);
    world_start_ready(w);
    p.max_tokens = 200;
    for (i = 0; i < 3; i++) {
        r[i] = world_make(&p, 20, i);
        assert_int_equal(engine_submit(w->engine, r[i], NULL), 0);
    }
    world_await_tokens(r[0], 1);
    engine_drain(w->engine, PATIENCE_MS);
    engine_drain(w->engine, 0);
    for (i = 0; i < 3; i++) {
        world_await_done(r[i]);
        assert_int_equal(r[i]->err.status, MT_ECLOSED);
        assert_int_equal(r[i]->choices[0].finish, FINISH_ERROR);
        world_drop(r[i]);
    }
    world_await_state(w, ENGINE_STOPPED, 1);
}

/* Freeing an engine in the middle of everything ends every request. */
static void test_free_midway(void **state)
{
    struct world *w = *state;
    struct request_params p = world_plain;
    struct request *r;

    setenv("FAKE_STEP_MS", "20", 1);
    world_start_ready(w);
    p.max_tokens = 200;
    r = world_make(&p, 20, 1);
    assert_int_equal(engine_submit(w->engine, r, NULL), 0);
    world_await_tokens(r, 1);
    engine_free(w->engine);
    w->engine = NULL;
    assert_true(world_is_done(r));
    world_drop(r);
}

/* --- what is told -------------------------------------------------------------------------------
 */

static void assert_metric(const char *text, const char *line)
{
    if (!strstr(text, line))
        print_error("missing \"%s\" in:\n%s\n", line, text);
    assert_non_null(strstr(text, line));
}

static void test_metrics_and_log(void **state)
{
    struct world *w = *state;
    struct request *r;
    struct buf out;
    char *text;
    int i;

    world_start_ready(w);
    for (i = 0; i < 3; i++) {
        r = world_make(&world_plain, 10, 1);
        assert_int_equal(engine_submit(w->engine, r, NULL), 0);
        world_await_done(r);
        world_drop(r);
    }
    engine_drain(w->engine, PATIENCE_MS);
    world_await_state(w, ENGINE_STOPPED, 1);
    buf_init(&out, 1 << 20);
    assert_int_equal(metrics_render(w->metrics, "m", &out), 0);
    text = buf_steal(&out);
    assert_non_null(text);
    assert_metric(text, "prompt_tokens_total{model_name=\"m\"} 30\n");
    assert_metric(text, "generation_tokens_total{model_name=\"m\"} 24\n");
    assert_metric(text, "finished_reason=\"length\"} 3\n");
    assert_metric(text, "time_to_first_token_seconds_count{model_name=\"m\"} 3\n");
    assert_metric(text, "inter_token_latency_seconds_count{model_name=\"m\"} 21\n");
    assert_metric(text, "e2e_request_latency_seconds_count{model_name=\"m\"} 3\n");
    assert_metric(text, "steps_total{model_name=\"m\"} 24\n");
    assert_metric(text, "overrun_tokens_total{model_name=\"m\"} 0\n");
    assert_metric(text, "num_requests_running{model_name=\"m\"} 0\n");
    assert_metric(text, "kv_cache_usage_perc{model_name=\"m\"} 0\n");
    free(text);
    world_assert_logged(w, "job_launched incarnation=1 ranks=1");
    world_assert_logged(w, "text=\"fake worker is ready\"");
    world_assert_logged(w, "prompt_tokens=10 output_tokens=8 finish=length ttft_ms=");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, world_set_up, world_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_death_kill),
        TEST(test_death_fail),
        TEST(test_death_hang),
        TEST(test_death_wrong),
        TEST(test_death_again_and_again),
        TEST(test_deadly_request),
        TEST(test_lost_and_found),
        TEST(test_no_start),
        TEST(test_drain),
        TEST(test_stop_now),
        TEST(test_free_midway),
        TEST(test_metrics_and_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
