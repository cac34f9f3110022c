/* moetuner place score: what a placement is worth. */
#include <stdlib.h>

#include "cli/place.h"

struct config {
    struct place_input in;
    char *placement, *from;
    double horizon;
    bool json, help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    PLACE_ROW_TRACE(struct config),
    PLACE_ROWS_PROBLEM(struct config),
    {"placement", OPTION_TEXT, AT(placement), NULL, 0, 0, NULL, "P", "Problem",
     "The placement to score."},
    {"from", OPTION_TEXT, AT(from), NULL, 0, 0, NULL, "P", "Problem",
     "The placement in force; leaving it costs a migration."},
    {"horizon", OPTION_REAL, AT(horizon), "0", 0, 1e18, NULL, "TOKENS", "Problem",
     "Tokens over which a migration must pay; 0: it costs nothing."},
    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, "Output",
     "One JSON object instead of tables."},
    PLACE_ROW_HELP(struct config),
    {0},
};

static const char *const EVALUATIONS[] = {[SCORE_FLUID] = "fluid", [SCORE_SAMPLED] = "sampled"};

struct scored {
    struct place_problem problem;
    struct plan plan, from;
    uint32_t evaluations; /* 1: steps cannot be sampled */
    struct score score[2];
    char port[64];
};

static void print_scenarios(const struct place_problem *p, const struct score *s)
{
    printf(
        "\n%s: a step of                  us    dense  dispatch   compute   combine    load   worst"
        "  active    |S|  remote  local\n",
        EVALUATIONS[s->evaluation]);
    for (uint32_t i = 0; i < s->scenarios; i++) {
        const struct score_scenario *c = &s->scenario[i];

        printf("  %-26.26s %8.1f %8.1f %9.1f %9.1f %9.1f %7.3f %7.3f %7.2f", p->scenario[i].name,
               c->step * 1e6, c->terms.dense * 1e6, c->terms.dispatch * 1e6, c->terms.compute * 1e6,
               c->terms.combine * 1e6, c->load, c->load_worst, c->active);
        if (c->traffic)
            printf(" %6.2f %7.2f %6.3f\n", c->ranks, c->remote, c->local);
        else
            printf("      -       -      -\n");
    }
}

static void print_total(const struct score *s, bool from)
{
    char j[32], move[32];

    place_seconds_print(s->j, j, sizeof j);
    printf("  J = %s a token", j);
    if (from) {
        place_seconds_print(s->migration, move, sizeof move);
        printf(", of which a migration of %s is %.1f %%", move,
               s->j > 0 ? 100 * (s->j - s->tokens_seconds) / s->j : 0);
    }
    if (s->evaluation == SCORE_SAMPLED)
        printf("; max/mean load within a step %.3f", s->straggler);
    printf("\n");
}

static json_t *scored_json(const struct config *c, const struct place_set *set,
                           const struct scored *s)
{
    json_t *root = json_pack("{s:s, s:o, s:s}", "placement", c->placement, "problem",
                             place_problem_json(&c->in, set, &s->problem), "busiest_port", s->port);

    for (uint32_t i = 0; root && i < s->evaluations; i++)
        json_object_set_new(root, EVALUATIONS[s->score[i].evaluation],
                            place_score_json(&s->problem, &s->score[i]));
    return root;
}

static int print_scored(const struct config *c, const struct place_set *set, const struct scored *s,
                        struct mt_err *reterr)
{
    if (c->json)
        return place_json_print(scored_json(c, set, s), stdout, reterr);
    place_problem_print(&c->in, set, &s->problem, stdout);
    for (uint32_t i = 0; i < s->evaluations; i++) {
        print_scenarios(&s->problem, &s->score[i]);
        print_total(&s->score[i], s->problem.from);
    }
    printf("\nbusiest port: %s\n", s->port);
    return 0;
}

static int read_plans(const struct config *c, struct scored *s, struct mt_err *reterr)
{
    int rc = place_need(c->placement, "placement", reterr);

    if (!rc)
        rc = plan_read(c->placement, &s->plan, reterr);
    if (!rc && c->from)
        rc = plan_read(c->from, &s->from, reterr);
    return rc;
}

static int score_all(const struct config *c, const struct place_set *set, struct scored *s,
                     struct mt_err *reterr)
{
    struct place_picture pic;
    int rc = place_problem_make(&c->in, set, 0, &s->plan, &s->problem, reterr);

    if (rc)
        return rc;
    if (c->from) {
        s->problem.from = &s->from;
        s->problem.horizon = c->horizon;
        rc = place_check(&s->problem, reterr);
    }
    if (!rc)
        rc = score_plan(&s->problem, &s->plan, SCORE_FLUID, &s->score[0], reterr);
    s->evaluations = 1;
    if (!rc)
        rc = score_plan(&s->problem, &s->plan, SCORE_SAMPLED, &s->score[1], reterr);
    if (!rc)
        s->evaluations = 2;
    if (rc == MT_EUNSUPPORTED && s->score[0].scenarios)
        rc = 0;
    if (!rc)
        rc = place_picture_make(&s->problem, set, &s->plan, &pic, reterr);
    if (rc)
        return rc;
    place_picture_port(&s->problem, &pic, s->port, sizeof s->port);
    place_picture_done(&pic);
    return 0;
}

static int score(const void *config, const struct place_args *args, int stop_fd,
                 struct mt_err *reterr)
{
    const struct config *c = config;
    struct place_set *set = calloc(1, sizeof *set);
    struct scored *s = calloc(1, sizeof *s);
    int rc = set && s ? read_plans(c, s, reterr) : mt_error(reterr, MT_ENOMEM, "out of memory");

    (void)stop_fd;
    if (!rc)
        rc = place_set_read(&c->in, args->trace, args->traces, 0, set, reterr);
    if (!rc)
        rc = score_all(c, set, s, reterr);
    if (!rc)
        rc = print_scored(c, set, s, reterr);
    if (set)
        place_set_done(set);
    if (s) {
        plan_done(&s->plan);
        plan_done(&s->from);
    }
    free(set);
    free(s);
    return rc;
}

const struct place_command PLACE_SCORE = {
    .usage = "--trace T... --cluster C --placement P.json [OPTION...]",
    .about = "Says what a placement is worth: fluid (expected values) and sampled (steps "
             "built from the traces).",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .terms = true,
    .run = score,
};
