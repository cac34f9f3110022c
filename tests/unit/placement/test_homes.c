/* Homes by affinity: from prompts alone, within the room there is, and no exchange is better. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"
#include "placement/homes.h"
#include "recount.h"

static void test_prompt_by_hand(void **unused)
{
    struct place_problem p = {.prompt_fraction = 0.5};

    (void)unused;
    assert_int_equal(homes_prompt(&p, 1), 1);
    assert_int_equal(homes_prompt(&p, 3), 1);
    assert_int_equal(homes_prompt(&p, 10), 5);
    p.prompt_fraction = 0;
    assert_int_equal(homes_prompt(&p, 10), 1);
    p.prompt_fraction = 1;
    assert_int_equal(homes_prompt(&p, UINT32_MAX), UINT32_MAX);
    p.prompt_tokens = 4;
    assert_int_equal(homes_prompt(&p, 3), 3);
    assert_int_equal(homes_prompt(&p, 10), 4);
}

/* Remote vectors of a prompt from a home, as those of the whole document. */
static double price(const struct example *s, uint32_t doc, uint32_t home)
{
    const struct trace *t = &s->trace[0];
    uint32_t length = t->doc[doc + 1] - t->doc[doc], prompt = homes_prompt(&s->p, length);
    double prob[TRACE_MAX_TOPK][RECOUNT_RANKS], sum = 0;

    for (uint32_t i = t->doc[doc]; i < t->doc[doc] + prompt; i++)
        for (uint32_t l = 0; l < t->layers; l++) {
            uint64_t position = i;

            recount_serve(&s->plan, &s->p.cluster, l, trace_at(t, i, l), t->topk, home, &position,
                          prob);
            for (uint32_t g = 0; g < s->p.cluster.ranks; g++) {
                double any = 0;

                for (uint32_t k = 0; k < t->topk; k++)
                    any = fmax(any, prob[k][g]);
                sum += g != home ? any : 0;
            }
        }
    return sum * length / prompt;
}

static void assign(const struct example *s, uint16_t *ret)
{
    struct mt_err err;

    if (homes_affinity(&s->p, &s->trace[0], &s->plan, ret, &err))
        fail_msg("%s", err.text);
}

static void assert_no_exchange_helps(const struct example *s, const uint16_t *home,
                                     const double *held, double room)
{
    const struct trace *t = &s->trace[0];

    for (uint32_t a = 0; a < t->documents; a++)
        for (uint32_t b = a + 1; b < t->documents; b++) {
            double la = t->doc[a + 1] - t->doc[a], lb = t->doc[b + 1] - t->doc[b];
            double now = price(s, a, home[a]) + price(s, b, home[b]);
            double then = price(s, a, home[b]) + price(s, b, home[a]);

            if (held[home[a]] + lb - la <= room && held[home[b]] + la - lb <= room)
                assert_true(then >= now * (1 - 1e-8));
        }
}

static void test_properties(void **unused)
{
    struct random r = {31};

    (void)unused;
    for (int round = 0; round < 200; round++) {
        struct example s;
        uint16_t home[16], again[16];
        double held[RECOUNT_RANKS] = {0}, mean, room, longest = 0;
        const struct trace *t = &s.trace[0];

        example_make(&r, round % 3, &s);
        assert_in_range(t->documents, 1, 16);
        if (round % 4 == 0)
            s.p.home_slack = 100; /* room for all: everyone has the cheapest home */
        assign(&s, home);
        mean = (double)t->tokens / s.p.cluster.ranks;
        room = (1 + s.p.home_slack) * mean;
        for (uint32_t d = 0; d < t->documents; d++) {
            assert_in_range(home[d], 0, s.p.cluster.ranks - 1);
            held[home[d]] += t->doc[d + 1] - t->doc[d];
            longest = fmax(longest, t->doc[d + 1] - t->doc[d]);
            for (uint32_t g = 0; g < s.p.cluster.ranks && round % 4 == 0; g++)
                assert_true(price(&s, d, home[d]) <= price(&s, d, g) * (1 + 1e-9));
        }
        for (uint32_t g = 0; g < s.p.cluster.ranks; g++)
            assert_true(held[g] <= fmax(room, mean + longest));
        assert_no_exchange_helps(&s, home, held, room);
        /* What follows the prompts does not matter. */
        for (uint32_t d = 0; d < t->documents; d++) {
            size_t row = (size_t)t->layers * t->topk;
            uint32_t first = t->doc[d], prompt = homes_prompt(&s.p, t->doc[d + 1] - first);

            for (uint32_t i = first + prompt; i < t->doc[d + 1]; i++)
                memcpy(t->choice + i * row, t->choice, row * sizeof *t->choice);
        }
        assign(&s, again);
        assert_memory_equal(home, again, t->documents * sizeof *home);
        example_done(&s);
    }
}

/* As many documents as there are tokens: looked at within the budget of exchanges. */
static void test_many_documents(void **unused)
{
    struct random r = {32};
    struct example s;
    uint16_t *home;

    (void)unused;
    example_make(&r, EXAMPLE_REPLICAS, &s);
    trace_done(&s.trace[0]);
    s.trace[0] = example_trace(&r, s.p.layers, s.p.experts, s.p.topk, 50000, 1);
    home = calloc(s.trace[0].documents, sizeof *home);
    assert_non_null(home);
    assign(&s, home);
    free(home);
    example_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt_by_hand),
        cmocka_unit_test(test_properties),
        cmocka_unit_test(test_many_documents),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
