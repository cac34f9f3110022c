/* moetuner place diff: the way from one placement to another. */
#include "placement/diff.h"

#include <stdlib.h>

#include "cli/place.h"

struct config {
    struct place_input in;
    char *from, *to;
    int64_t replicas;
    bool staging, json, help;
};

#define AT(field) offsetof(struct config, field)

static const struct option OPTIONS[] = {
    {"from", OPTION_TEXT, AT(from), NULL, 0, 0, NULL, "A.json", "Problem",
     "The placement in force."},
    {"to", OPTION_TEXT, AT(to), NULL, 0, 0, NULL, "B.json", "Problem", "The one to reach."},
    PLACE_ROW_CLUSTER(struct config),
    PLACE_ROW_MODEL(struct config),
    {"replicas", OPTION_INT, AT(replicas), "0", 0, PLACE_MAX_EXPERTS, NULL, "R", "Problem",
     "Spare slots of each rank in each layer; at least as many as the placements need."},
    {"staging", OPTION_FLAG, AT(staging), "false", 0, 0, NULL, NULL, "Problem",
     "Each rank has one more slot while experts move, so that nothing is copied twice. Taken "
     "anyway, with a word on standard error, where full ranks leave no other way."},
    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, "Output",
     "One JSON object instead of text."},
    PLACE_ROW_HELP(struct config),
    {0},
};

struct way {
    struct plan from, to;
    struct cluster cluster;
    struct diff diff;
};

static uint32_t most_slots(const struct plan *p)
{
    uint32_t most = 0;

    for (uint32_t g = 0; g < p->ranks; g++)
        most = plan_slots(p, g) > most ? plan_slots(p, g) : most;
    return most;
}

/* A placement does not say how many experts a token chooses: any known model of its shape will do.
 */
static void guess_topk(struct place_set *s)
{
    for (s->topk = 1; s->topk < TRACE_MAX_TOPK; s->topk++)
        if (cluster_known_model(s->layers, s->experts, s->topk))
            return;
}

static int read_cluster(const struct config *c, struct way *w, struct mt_err *reterr)
{
    struct place_set s = {.layers = w->from.layers, .experts = w->from.experts};
    uint32_t even = (w->from.experts + w->from.ranks - 1) / w->from.ranks;
    uint32_t need = most_slots(&w->from), to = most_slots(&w->to), spare;
    struct model_dims dims;
    bool known, fits = true;
    int rc;

    need = to > need ? to : need;
    spare = need > even ? need - even : 0;
    guess_topk(&s);
    rc = place_dims(&c->in, &s, &dims, &known, reterr);
    if (rc)
        return rc;
    rc = cluster_read(c->in.cluster, known ? &dims : NULL, s.experts, (uint32_t)c->replicas,
                      &w->cluster, reterr);
    for (uint32_t g = 0; !rc && g < w->cluster.ranks; g++)
        fits = fits && w->cluster.slots[g] >= need;
    if (rc || fits)
        return rc;
    return cluster_read(c->in.cluster, known ? &dims : NULL, s.experts, spare, &w->cluster, reterr);
}

static int read_way(const struct config *c, struct way *w, struct mt_err *reterr)
{
    int rc = place_need(c->from, "from", reterr);

    if (!rc)
        rc = place_need(c->to, "to", reterr);
    if (!rc)
        rc = place_need(c->in.cluster, "cluster", reterr);
    if (!rc)
        rc = plan_read(c->from, &w->from, reterr);
    if (!rc)
        rc = plan_read(c->to, &w->to, reterr);
    if (!rc)
        rc = plan_check(&w->to, w->from.layers, w->from.experts, w->from.ranks, reterr);
    if (!rc)
        rc = read_cluster(c, w, reterr);
    if (!rc)
        rc = plan_check(&w->from, w->from.layers, w->from.experts, w->cluster.ranks, reterr);
    return rc;
}

static json_t *move_json(const struct diff_move *m)
{
    if (m->drop)
        return json_pack("{s:s, s:i, s:i, s:i, s:b}", "move", "drop", "layer", (int)m->layer,
                         "expert", (int)m->expert, "rank", (int)m->from, "detour", m->detour);
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:b}", "move", "copy", "layer", (int)m->layer,
                     "expert", (int)m->expert, "from", (int)m->from, "to", (int)m->to, "detour",
                     m->detour);
}

static json_t *port_json(const char *what, uint32_t n, double in, double out)
{
    return json_pack("{s:i, s:f, s:f}", what, (int)n, "in_bytes", in, "out_bytes", out);
}

static int print_json(const struct way *w, struct mt_err *reterr)
{
    const struct diff *d = &w->diff;
    json_t *moves = json_array(), *ports = json_array();

    for (size_t i = 0; i < d->moves; i++)
        json_array_append_new(moves, move_json(&d->move[i]));
    for (uint32_t g = 0; g < w->cluster.ranks; g++)
        json_array_append_new(ports, port_json("rank", g, d->rank_in[g], d->rank_out[g]));
    for (uint32_t n = 0; w->cluster.nodes > 1 && n < w->cluster.nodes; n++)
        json_array_append_new(ports, port_json("node", n, d->node_in[n], d->node_out[n]));
    return place_json_print(json_pack("{s:i, s:i, s:i, s:i, s:f, s:f, s:o, s:o}", "copies",
                                      (int)d->copies, "drops", (int)d->drops, "detours",
                                      (int)d->detours, "staged", (int)d->staged, "transfer_seconds",
                                      d->transfer, "seconds", d->seconds, "ports", ports, "moves",
                                      moves),
                            stdout, reterr);
}

static void print_port(const char *what, uint32_t n, double in, double out)
{
    if (in > 0 || out > 0)
        printf("  %s %3u  in %10.2f MiB  out %10.2f MiB\n", what, n, in / (1 << 20),
               out / (1 << 20));
}

static void print_text(const struct way *w)
{
    const struct diff *d = &w->diff;
    char time[32];

    for (size_t i = 0; i < d->moves; i++) {
        const struct diff_move *m = &d->move[i];

        if (m->drop)
            printf("layer %u: drop expert %u on rank %u%s\n", m->layer, m->expert, m->from,
                   m->detour ? " (end of a detour)" : "");
        else
            printf("layer %u: copy expert %u from rank %u to rank %u%s\n", m->layer, m->expert,
                   m->from, m->to, m->detour ? " (a detour that breaks a cycle)" : "");
    }
    place_seconds_print(d->seconds, time, sizeof time);
    printf("%s%u copies (%u detours, %u staged), %u drops; %.2f MiB an expert; about %s with %g of "
           "each link\n",
           d->moves ? "\n" : "", d->copies, d->detours, d->staged, d->drops,
           w->cluster.expert_bytes / (1 << 20), time, w->cluster.migration_share);
    for (uint32_t g = 0; g < w->cluster.ranks; g++)
        print_port("rank", g, d->rank_in[g], d->rank_out[g]);
    for (uint32_t n = 0; n < w->cluster.nodes; n++)
        print_port("node", n, d->node_in[n], d->node_out[n]);
}

static int diff(const void *config, const struct place_args *args, int stop_fd,
                struct mt_err *reterr)
{
    const struct config *c = config;
    struct way w = {0};
    int rc = read_way(c, &w, reterr);

    (void)args;
    (void)stop_fd;
    if (!rc)
        rc = diff_plans(&w.cluster, &w.from, &w.to, c->staging, &w.diff, reterr);
    if (rc == MT_ELIMIT) {
        fprintf(stderr, "moetuner place diff: %s: with a slot for staging on each rank\n",
                reterr->text);
        rc = diff_plans(&w.cluster, &w.from, &w.to, true, &w.diff, reterr);
    }
    if (!rc) {
        if (c->json)
            rc = print_json(&w, reterr);
        else
            print_text(&w);
        diff_done(&w.diff);
    }
    plan_done(&w.from);
    plan_done(&w.to);
    return rc;
}

const struct place_command PLACE_DIFF = {
    .usage = "--from A.json --to B.json --cluster C [OPTION...]",
    .about = "Lists the copies and drops that lead from one placement to another, in an "
             "order in which\nevery expert always has a copy and no rank exceeds its slots; "
             "with bytes by port, and a time.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .run = diff,
};
