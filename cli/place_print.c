/* Scores as text and as JSON. */
#include <math.h>

#include "cli/place.h"

/* Digits of a double that are worth comparing; more would differ between compilers. */
#define DIGITS JSON_REAL_PRECISION(9)

static json_t *terms_json(const struct step_terms *t)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "dense", t->dense, "dispatch", t->dispatch, "compute",
                     t->compute, "combine", t->combine);
}

static json_t *scenario_json(const struct place_scenario *c, const struct score_scenario *s)
{
    return json_pack("{s:s, s:s, s:f, s:i, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:b}",
                     "name", c->name, "phase", c->phase == PLACE_DECODE ? "decode" : "prefill",
                     "share", c->share, "tokens", (int)c->tokens, "step_seconds", s->step, "terms",
                     terms_json(&s->terms), "load", s->load, "load_worst", s->load_worst, "active",
                     s->active, "ranks", s->ranks, "remote", s->remote, "local", s->local, "steps",
                     (int)s->steps, "traffic", s->traffic);
}

json_t *place_score_json(const struct place_problem *p, const struct score *s)
{
    json_t *scenarios = json_array();

    for (uint32_t i = 0; i < s->scenarios; i++)
        json_array_append_new(scenarios, scenario_json(&p->scenario[i], &s->scenario[i]));
    return json_pack("{s:s, s:f, s:f, s:f, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:o}", "evaluation",
                     s->evaluation == SCORE_FLUID ? "fluid" : "sampled", "j", s->j,
                     "tokens_seconds", s->tokens_seconds, "migration_seconds", s->migration,
                     "kv_moves", s->kv_moves, "terms", terms_json(&s->terms), "load", s->load,
                     "load_worst", s->load_worst, "ranks", s->ranks, "remote", s->remote, "local",
                     s->local, "scenarios", scenarios);
}

int place_json_print(json_t *root, FILE *out, struct mt_err *reterr)
{
    int rc = root ? json_dumpf(root, out, DIGITS | JSON_INDENT(1)) : -1;

    json_decref(root);
    if (rc)
        return mt_error(reterr, MT_ENOMEM, "out of memory, or the JSON cannot be written");
    fputc('\n', out);
    return 0;
}

void place_gap_print(double objective, double bound, bool optimal, char *ret, size_t n)
{
    double gap = bound > 0 ? (objective - bound) / bound : 0;

    if (!(bound > 0))
        snprintf(ret, n, "%s", optimal ? "own" : "-");
    else
        snprintf(ret, n, "%.2f %%", 100 * fmax(gap, 0));
}

void place_seconds_print(double seconds, char *ret, size_t n)
{
    static const struct {
        double from, scale;
        const char *unit;
    } UNITS[] = {{1, 1, "s"}, {1e-3, 1e3, "ms"}, {1e-6, 1e6, "us"}, {0, 1e9, "ns"}};
    size_t i = 0;

    while (UNITS[i].from > fabs(seconds))
        i++;
    snprintf(ret, n, "%.4g %s", seconds * UNITS[i].scale, UNITS[i].unit);
}
