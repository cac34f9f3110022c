/* What a placement is worth: score.h against a recount from the objective's text, examples worked
 * by hand, and what must hold of any problem. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "placement/homes.h"
#include "placement/score.h"
#include "recount.h"
#include "sample.h"

static void close_to(const char *what, int round, double found, double expected)
{
    double scale = fmax(fabs(found), fabs(expected));

    if (!(fabs(found - expected) <= 1e-9 * scale + 1e-300))
        fail_msg("round %d: %s: expected %.17g, found %.17g", round, what, expected, found);
}

static void assert_terms(int round, const struct step_terms *a, const struct step_terms *b)
{
    close_to("dense", round, a->dense, b->dense);
    close_to("dispatch", round, a->dispatch, b->dispatch);
    close_to("compute", round, a->compute, b->compute);
    close_to("combine", round, a->combine, b->combine);
}

static void assert_same(int round, const struct score *a, const struct score *b)
{
    for (uint32_t i = 0; i < a->scenarios; i++) {
        const struct score_scenario *x = &a->scenario[i], *y = &b->scenario[i];

        assert_terms(round, &x->terms, &y->terms);
        close_to("step", round, x->step, y->step);
        close_to("load of a scenario", round, x->load, y->load);
        close_to("worst load of a scenario", round, x->load_worst, y->load_worst);
        close_to("straggler of a scenario", round, x->straggler, y->straggler);
        close_to("active", round, x->active, y->active);
        close_to("ranks of a scenario", round, x->ranks, y->ranks);
        close_to("remote of a scenario", round, x->remote, y->remote);
        close_to("local of a scenario", round, x->local, y->local);
        close_to("tokens", round, x->tokens, y->tokens);
        assert_int_equal(x->steps, y->steps);
    }
    close_to("tokens_seconds", round, a->tokens_seconds, b->tokens_seconds);
    close_to("migration", round, a->migration, b->migration);
    close_to("kv_moves", round, a->kv_moves, b->kv_moves);
    close_to("j", round, a->j, b->j);
    close_to("load", round, a->load, b->load);
    close_to("load_worst", round, a->load_worst, b->load_worst);
    close_to("straggler", round, a->straggler, b->straggler);
    close_to("ranks", round, a->ranks, b->ranks);
    close_to("remote", round, a->remote, b->remote);
    close_to("local", round, a->local, b->local);
}

static struct score score(const struct place_problem *p, const struct plan *plan,
                          enum score_evaluation how)
{
    struct score s;
    struct mt_err err;

    if (score_plan(p, plan, how, &s, &err))
        fail_msg("%s", err.text);
    return s;
}

static void compare(int round, struct sample *s, enum score_evaluation how)
{
    uint16_t *homes[SAMPLE_SCENARIOS] = {NULL};
    struct score found = score(&s->p, &s->plan, how), expected;
    struct mt_err err;

    for (uint32_t i = 0; i < s->p.scenarios; i++) {
        homes[i] = calloc(s->trace[i].documents, sizeof *homes[i]);
        assert_non_null(homes[i]);
        assert_int_equal(homes_affinity(&s->p, &s->trace[i], &s->plan, homes[i], &err), 0);
    }
    recount_score(&s->p, &s->plan, how, homes, &expected);
    assert_same(round, &found, &expected);
    for (uint32_t i = 0; i < s->p.scenarios; i++)
        free(homes[i]);
}

/* Documents of one token have nothing after the prompt: then there is nothing to decode. */
static bool has_decode(const struct sample *s)
{
    bool all = true;

    for (uint32_t i = 0; i < s->p.scenarios; i++) {
        const struct trace *t = &s->trace[i];
        bool any = s->p.scenario[i].phase == PLACE_PREFILL;

        for (uint32_t d = 0; d < t->documents; d++) {
            uint32_t length = t->doc[d + 1] - t->doc[d];

            any |= homes_prompt(&s->p, length) < length;
        }
        all &= any;
    }
    return all;
}

static void test_recount(void **unused)
{
    struct random r = {1};
    int refused = 0;

    (void)unused;
    for (int round = 0; round < 900; round++) {
        struct sample s;

        sample_make(&r, round % 3, &s);
        compare(round, &s, SCORE_FLUID);
        compare(round, &s, SCORE_SAMPLED);
        s.p.homes = PLACE_HOMES_AFFINITY;
        if (has_decode(&s)) {
            compare(round, &s, SCORE_FLUID);
            compare(round, &s, SCORE_SAMPLED);
        } else {
            struct score unchanged;
            struct mt_err err;

            assert_int_equal(score_plan(&s.p, &s.plan, SCORE_FLUID, &unchanged, &err), MT_EINVAL);
            refused++;
        }
        sample_done(&s);
    }
    assert_in_range(refused, 0, 300);
}

static void test_loads_only(void **unused)
{
    struct random r = {2};

    (void)unused;
    for (int round = 0; round < 300; round++) {
        struct sample s;
        struct score x;
        struct mt_err err;

        sample_make(&r, round % 3, &s);
        s.p.scenario[random_below(&r, s.p.scenarios)].trace = NULL;
        compare(round, &s, SCORE_FLUID);
        assert_int_equal(score_plan(&s.p, &s.plan, SCORE_SAMPLED, &x, &err), MT_EUNSUPPORTED);
        sample_done(&s);
    }
}
//MORE
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recount),
        cmocka_unit_test(test_loads_only),
        //LIST
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
