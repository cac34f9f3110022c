#include "placement/layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNITS 0x1p30 /* all experts together cost less than this in any sample */
#define HALF 0.5

static void find_ranges(struct layer *l)
{
    const struct cluster *c = &l->p->cluster;

    for (uint32_t g = 0; g < l->ranks; g++)
        l->first[g + 1] = l->first[g] + c->slots[g];
    l->slots = l->first[l->ranks];
    for (uint32_t g = l->ranks; g-- > 0;)
        l->node_first[c->node[g]] = g;
    l->node_first[l->nodes] = l->ranks;
}

static void price_ports(struct layer *l)
{
    const struct cluster *c = &l->p->cluster;
    double once = c->dispatch_bytes + (c->exact_combine ? 0 : c->combine_bytes);
    double each = c->exact_combine ? c->combine_bytes : 0;

    for (uint32_t i = 0; i < l->bag->groups; i++) {
        double w = l->bag->group[i].weight;

        l->ports[i] = (struct layer_ports){
            w * once / c->rank_link.bandwidth, w * once / c->node_link.bandwidth,
            w * each / c->rank_link.bandwidth, w * each / c->node_link.bandwidth};
    }
}

/* Dispatch and combine of every scenario of the group: a peer sends a message if one of its tokens
 * of the step touches the rank. */
static int price_messages(struct layer *l)
{
    const struct place_problem *p = l->p;

    l->message = calloc((size_t)l->bag->groups * (LAYER_TABLE + 1) + 1, sizeof *l->message);
    if (!l->message)
        return -1;
    for (uint32_t i = 0; i < l->bag->groups; i++)
        for (uint32_t k = 0; k < p->scenarios; k++) {
            const struct place_scenario *s = &p->scenario[k];
            double b = (double)s->tokens / l->ranks, each = 2 * s->share / s->tokens;

            if (s->trace != l->bag->group[i].trace)
                continue;
            for (uint32_t t = 0; t <= LAYER_TABLE; t++)
                l->message[i * (LAYER_TABLE + 1) + t] +=
                    (float)(each * p->cluster.rank_link.latency *
                            (1 - pow(1 - (double)t / LAYER_TABLE, b)));
        }
    return 0;
}

/* T_mig is the busiest port's; here every new copy pays its part of a balanced exchange. */
static void price_moves(struct layer *l)
{
    const struct cluster *c = &l->p->cluster;
    double part = c->expert_bytes / c->migration_share;

    l->move_price[MOVE_NONE] = 0;
    l->move_price[MOVE_NEAR] = l->move_price[MOVE_FAR] = 0;
    if (!l->p->from || !(l->p->horizon > 0))
        return;
    l->move_price[MOVE_NEAR] = part / c->rank_link.bandwidth / l->ranks / l->p->horizon;
    l->move_price[MOVE_FAR] = part / c->node_link.bandwidth / l->nodes / l->p->horizon;
}

/* What is known of a layer's experts. */
static bool open_tables(struct layer *l)
{
    size_t items = (size_t)l->experts + 1, words = l->bag->words, classes = l->bag->classes + 1;

    l->x = calloc(items * words + 1, sizeof *l->x);
    l->tokens = calloc(items * l->samples, sizeof *l->tokens);
    l->active = calloc(items * l->samples, sizeof *l->active);
    l->cost = calloc(items * l->samples, sizeof *l->cost);
    l->flow = calloc(items * l->samples, sizeof *l->flow);
    l->class_pairs = calloc(items * classes, sizeof *l->class_pairs);
    l->move = calloc(items * l->ranks, sizeof *l->move);
    return l->x && l->tokens && l->active && l->cost && l->flow && l->class_pairs && l->move;
}

/* What follows from where they are. */
static bool open_counters(struct layer *l)
{
    size_t rows = (size_t)l->ranks + l->nodes, words = l->bag->words, classes = l->bag->classes + 1;

    l->slot_rank = calloc((size_t)l->slots + 1, sizeof *l->slot_rank);
    l->item = calloc(l->slots, sizeof *l->item);
    l->best = calloc(l->slots, sizeof *l->best);
    l->once = calloc(rows * words + 1, sizeof *l->once);
    l->twice = calloc(rows * words + 1, sizeof *l->twice);
    l->touched = calloc(rows * classes, sizeof *l->touched);
    l->pairs = calloc(rows * classes, sizeof *l->pairs);
    l->old = calloc(4 * classes, sizeof *l->old);
    l->load = calloc((size_t)l->ranks * l->samples, sizeof *l->load);
    l->flows = calloc((size_t)l->ranks * l->samples, sizeof *l->flows);
    l->node_flows = calloc((size_t)l->nodes * l->samples, sizeof *l->node_flows);
    return l->slot_rank && l->item && l->best && l->once && l->twice && l->touched && l->pairs &&
           l->old && l->load && l->flows && l->node_flows;
}

int layer_new(const struct bag *bag, const struct sample_set *set, struct layer **ret,
              struct mt_err *reterr)
{
    struct layer *l = calloc(1, sizeof *l);

    if (!l)
        goto no_memory;
    *l = (struct layer){.p = bag->p,
                        .bag = bag,
                        .set = set,
                        .bits = bits_get(),
                        .ranks = bag->p->cluster.ranks,
                        .nodes = bag->p->cluster.nodes,
                        .experts = bag->p->experts,
                        .samples = sample_count(set),
                        .mix = HALF,
                        .traffic = 1};
    find_ranges(l);
    price_ports(l);
    price_moves(l);
    if (price_messages(l) || !open_tables(l) || !open_counters(l))
        goto no_memory;
    for (uint32_t g = 0; g < l->ranks; g++)
        for (uint32_t s = l->first[g]; s < l->first[g + 1]; s++)
            l->slot_rank[s] = (uint16_t)g;
    *ret = l;
    return 0;
no_memory:
    layer_free(l);
    return mt_error(reterr, MT_ENOMEM, "search: no memory for a layer of %u experts, %u words",
                    bag->p->experts, bag->words);
}

void layer_free(struct layer *l)
{
    if (!l)
        return;
    free(l->message);
    free(l->slot_rank);
    free(l->x);
    free(l->tokens);
    free(l->active);
    free(l->cost);
    free(l->flow);
    free(l->flows);
    free(l->node_flows);
    free(l->class_pairs);
    free(l->move);
    free(l->item);
    free(l->best);
    free(l->once);
    free(l->twice);
    free(l->touched);
    free(l->pairs);
    free(l->old);
    free(l->load);
    free(l);
}

/* Costs as integers of a unit in which a whole sample stays below UNITS; pairs likewise, weighted
 * by what a token of the sample counts for. */
static void fill_costs(struct layer *l)
{
    const double *a = sample_token_cost(l->set), *b = sample_active_cost(l->set);
    const double *w = sample_weight(l->set);
    double most = 0, most_flow = 0;

    for (uint32_t k = 0; k < l->samples; k++) {
        double sum = 0, flow = 0;

        for (uint32_t e = 0; e < l->experts; e++) {
            size_t i = (size_t)e * l->samples + k;

            sum += a[k] * (double)l->tokens[i] + b[k] * (double)l->active[i];
            flow += w[k] * (double)l->tokens[i];
        }
        most = fmax(most, sum);
        most_flow = fmax(most_flow, flow);
    }
    l->unit = most > 0 ? most / UNITS : 1;
    l->flow_unit = most_flow > 0 ? most_flow / UNITS : 1;
    for (size_t i = 0; i < (size_t)(l->experts + 1) * l->samples; i++) {
        uint32_t k = (uint32_t)(i % l->samples);

        l->cost[i] =
            (int32_t)((a[k] * (double)l->tokens[i] + b[k] * (double)l->active[i]) / l->unit);
        l->flow[i] = (int32_t)(w[k] * (double)l->tokens[i] / l->flow_unit);
    }
}

/* What it takes to bring each expert to each rank. */
static void fill_moves(struct layer *l)
{
    const struct plan *from = l->p->from;
    const uint16_t *node = l->p->cluster.node;

    memset(l->move, MOVE_NONE, (size_t)(l->experts + 1) * l->ranks);
    for (uint32_t e = 0; from && e < l->experts; e++) {
        size_t pair = (size_t)l->layer * l->experts + e;

        for (uint32_t g = 0; g < l->ranks; g++) {
            uint8_t *move = &l->move[(size_t)e * l->ranks + g];

            *move = MOVE_FAR;
            for (uint32_t i = from->start[pair]; i < from->start[pair + 1]; i++)
                if (from->rank[i] == g)
                    *move = MOVE_NONE;
                else if (*move == MOVE_FAR && node[from->rank[i]] == node[g])
                    *move = MOVE_NEAR;
        }
    }
}

void layer_load(struct layer *l, uint32_t layer)
{
    const struct bag *b = l->bag;

    l->layer = layer;
    bag_layer(b, layer, l->x);
    sample_layer(l->set, layer, l->tokens, l->active);
    fill_costs(l);
    fill_moves(l);
    for (uint32_t e = 0; e < l->experts; e++)
        for (uint32_t c = 0; c < b->classes; c++)
            l->class_pairs[(size_t)e * b->classes + c] =
                (int32_t)l->bits->count(l->x + (size_t)e * b->words + b->class_word[c],
                                        b->class_word[c + 1] - b->class_word[c]);
}

static void count_row(struct layer *l, uint32_t row)
{
    const struct bag *b = l->bag;

    for (uint32_t c = 0; c < b->classes; c++)
        l->touched[(size_t)row * b->classes + c] =
            (int32_t)l->bits->count(l->once + (size_t)row * b->words + b->class_word[c],
                                    b->class_word[c + 1] - b->class_word[c]);
}

/* Who touches the slots [from, to), as row. */
static void gather(struct layer *l, uint32_t row, uint32_t from, uint32_t to)
{
    size_t words = l->bag->words;
    uint64_t *once = l->once + row * words, *twice = l->twice + row * words;

    memset(once, 0, words * sizeof *once);
    memset(twice, 0, words * sizeof *twice);
    for (uint32_t s = from; s < to; s++)
        if (l->item[s] < l->experts)
            l->bits->add(once, twice, l->x + (size_t)l->item[s] * words, words);
    count_row(l, row);
}

static void gather_rank(struct layer *l, uint32_t rank)
{
    gather(l, rank, l->first[rank], l->first[rank + 1]);
}

static void gather_node(struct layer *l, uint32_t node)
{
    if (l->p->cluster.two_level)
        gather(l, l->ranks + node, l->first[l->node_first[node]],
               l->first[l->node_first[node + 1]]);
}

static void add_item(struct layer *l, uint32_t slot)
{
    uint32_t rank = l->slot_rank[slot], e = l->item[slot];
    int32_t *load = l->load + (size_t)rank * l->samples;
    int32_t *pairs = l->pairs + (size_t)rank * l->bag->classes;

    l->bits->add_row(load, l->cost + (size_t)e * l->samples, l->samples);
    l->bits->add_row(l->flows + (size_t)rank * l->samples, l->flow + (size_t)e * l->samples,
                     l->samples);
    for (uint32_t c = 0; c < l->bag->classes; c++)
        pairs[c] += l->class_pairs[(size_t)e * l->bag->classes + c];
    l->moves[l->move[(size_t)e * l->ranks + rank]]++;
}

void layer_set(struct layer *l, const uint16_t *items)
{
    memcpy(l->item, items, l->slots * sizeof *l->item);
    memset(l->load, 0, (size_t)l->ranks * l->samples * sizeof *l->load);
    memset(l->flows, 0, (size_t)l->ranks * l->samples * sizeof *l->flows);
    memset(l->pairs, 0, (size_t)l->ranks * l->bag->classes * sizeof *l->pairs);
    memset(l->moves, 0, sizeof l->moves);
    for (uint32_t s = 0; s < l->slots; s++)
        add_item(l, s);
    for (uint32_t g = 0; g < l->ranks; g++)
        gather_rank(l, g);
    for (uint32_t m = 0; m < l->nodes; m++)
        gather_node(l, m);
    l->price = layer_price(l);
}

/* Vectors through ports: the busiest of ranks and of nodes, and their means. */
struct busy {
    double rank, node, rank_mean, node_mean;
    double in[PLAN_MAX_RANKS], node_in[PLAN_MAX_RANKS]; /* of each port, inwards */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Every home alike. count[row * classes]: tokens that touch a rank; node rows where `nodes`. */
static void busy_alike(const struct layer *l, const int32_t *count, bool nodes, struct busy *b)
{
    size_t classes = l->bag->classes;
    double all = 0, of_node[PLAN_MAX_RANKS], ranks = l->ranks;

    for (uint32_t m = 0; m < l->nodes; m++) {
        double n = l->node_first[m + 1] - l->node_first[m], sum = 0, most = 0, least = INFINITY;

        for (uint32_t g = l->node_first[m]; g < l->node_first[m + 1]; g++) {
            double u = count[g * classes];

            b->in[g] = u * (n - 1) / ranks;
            sum += u;
            most = larger(most, u);
            least = u < least ? u : least;
        }
        b->rank = larger(b->rank, larger(most * (n - 1), sum - least) / ranks);
        b->rank_mean += sum * (n - 1) / (ranks * ranks);
        of_node[m] = nodes ? count[(l->ranks + m) * classes] : sum;
        all += of_node[m];
    }
    for (uint32_t m = 0; l->nodes > 1 && m < l->nodes; m++) {
        double n = l->node_first[m + 1] - l->node_first[m], in = of_node[m] * (ranks - n) / ranks;

        b->node_in[m] = in;
        b->node = larger(b->node, larger(in, n / ranks * (all - of_node[m])));
        b->node_mean += in / l->nodes;
    }
}

/* Homes known: count[row * classes + home]. */
static void busy_homes(const struct layer *l, const int32_t *count, bool nodes, struct busy *b)
{
    size_t classes = l->bag->classes;
    double out[PLAN_MAX_RANKS] = {0}, node_out[PLAN_MAX_RANKS] = {0};
    const uint16_t *node = l->p->cluster.node;

    for (uint32_t m = 0; m < l->nodes; m++) {
        double node_in = 0;

        for (uint32_t g = l->node_first[m]; g < l->node_first[m + 1]; g++) {
            double in = 0;

            for (uint32_t h = 0; h < l->ranks; h++) {
                double n = count[g * classes + h];

                if (node[h] == m && h != g) {
                    in += n;
                    out[h] += n;
                } else if (node[h] != m && !nodes) {
                    node_in += n;
                    node_out[node[h]] += n;
                }
            }
            b->in[g] = in;
            b->rank = larger(b->rank, in);
            b->rank_mean += in / l->ranks;
        }
        for (uint32_t h = 0; nodes && h < l->ranks; h++)
            if (node[h] != m) {
                node_in += count[(l->ranks + m) * classes + h];
                node_out[node[h]] += count[(l->ranks + m) * classes + h];
            }
        b->node_in[m] = node_in;
        b->node = larger(b->node, node_in);
        b->node_mean += node_in / l->nodes;
    }
    for (uint32_t g = 0; g < l->ranks; g++)
        b->rank = larger(b->rank, out[g]);
    for (uint32_t m = 0; m < l->nodes; m++)
        b->node = larger(b->node, node_out[m]);
}

/* Seconds of J that traffic takes: at the busiest port of each group, on average over the ports,
 * and of each port. */
struct traffic {
    double most, mean, messages;
    double in[PLAN_MAX_RANKS], node_in[PLAN_MAX_RANKS];
};

/* The messages of one group's exchanges, by the part of its tokens that touch each rank. */
static void add_messages(const struct layer *l, const struct bag_group *g, const struct busy *b,
                         struct traffic *t)
{
    const float *table = l->message + (size_t)(g - l->bag->group) * (LAYER_TABLE + 1);
    const uint16_t *node = l->p->cluster.node;
    double most = 0, sum = 0;

    for (uint32_t i = 0; i < l->ranks; i++) {
        double peers = l->node_first[node[i] + 1] - l->node_first[node[i]] - 1, x, seconds;
        uint32_t at;

        if (peers < 1)
            continue;
        x = b->in[i] * l->ranks / (g->tokens * peers) * LAYER_TABLE;
        at = x < LAYER_TABLE - 1 ? (uint32_t)x : LAYER_TABLE - 1;
        x = x < LAYER_TABLE ? x - at : 1;
        seconds = peers * ((1 - x) * (double)table[at] + x * (double)table[at + 1]);
        most = larger(most, seconds);
        sum += seconds;
    }
    t->messages += l->mix * most + (1 - l->mix) * sum / l->ranks;
}

static void add_traffic(const struct layer *l, const int32_t *count, const struct bag_group *g,
                        bool messages, bool nodes, double rank, double node, struct traffic *t)
{
    struct busy b;

    b.rank = b.node = b.rank_mean = b.node_mean = 0;
    memset(b.in, 0, l->ranks * sizeof *b.in); /* all will be written, which clang-tidy cannot see */
    if (g->homes)
        busy_homes(l, count + g->first, nodes, &b);
    else
        busy_alike(l, count + g->first, nodes, &b);
    t->most += larger(b.rank * rank, b.node * node);
    t->mean += larger(b.rank_mean * rank, b.node_mean * node);
    for (uint32_t i = 0; i < l->ranks; i++)
        t->in[i] += b.in[i] * rank;
    if (messages)
        add_messages(l, g, &b, t);
    for (uint32_t m = 0; l->nodes > 1 && m < l->nodes; m++)
        t->node_in[m] += b.node_in[m] * node;
}

/* The mean over samples of the busiest inward port. */
static double straggle(const struct layer *l, const struct traffic *t)
{
    double ranks = l->bits->scaled_sum_of_max(l->flows, t->in, l->ranks, l->samples);

    if (l->nodes == 1)
        return ranks;
    memset(l->node_flows, 0, (size_t)l->nodes * l->samples * sizeof *l->node_flows);
    for (uint32_t g = 0; g < l->ranks; g++)
        l->bits->add_row(l->node_flows + (size_t)l->p->cluster.node[g] * l->samples,
                         l->flows + (size_t)g * l->samples, l->samples);
    return larger(ranks,
                  l->bits->scaled_sum_of_max(l->node_flows, t->node_in, l->nodes, l->samples));
}

static void count_traffic(const struct layer *l, struct traffic *t)
{
    const struct cluster *c = &l->p->cluster;

    t->most = t->mean = t->messages = 0;
    memset(t->in, 0, l->ranks * sizeof *t->in);
    memset(t->node_in, 0, l->nodes * sizeof *t->node_in);
    for (uint32_t i = 0; i < l->bag->groups; i++) {
        const struct bag_group *g = &l->bag->group[i];
        const struct layer_ports *k = &l->ports[i];

        add_traffic(l, l->touched, g, c->rank_link.latency > 0, c->two_level, k->rank, k->node, t);
        if (c->exact_combine)
            add_traffic(l, l->pairs, g, false, false, k->rank_back, k->node_back, t);
    }
}

static double assemble(const struct layer *l, double compute, const struct traffic *t,
                       double straggler, double moves)
{
    double traffic = l->mix * larger(t->most, straggler) + (1 - l->mix) * t->mean + t->messages;

    return compute + l->traffic * traffic + moves;
}

double layer_compute(const struct layer *l)
{
    return (double)l->bits->sum_of_max(l->load, l->ranks, l->samples) * l->unit;
}

double layer_price_within(const struct layer *l, double limit)
{
    double moves = 0, compute = layer_compute(l), least;
    struct traffic t;

    for (int k = MOVE_NEAR; k <= MOVE_FAR; k++)
        moves += l->moves[k] * l->move_price[k];
    if (!l->bag->groups)
        return compute + moves;
    count_traffic(l, &t);
    least = assemble(l, compute, &t, 0, moves);
    return least > limit ? least : assemble(l, compute, &t, straggle(l, &t), moves);
}

double layer_price(const struct layer *l)
{
    return layer_price_within(l, INFINITY);
}

/* A row whose items change: `out` leaves, `in` comes. old keeps what there was. */
static void recount(struct layer *l, uint32_t row, uint32_t out, uint32_t in, int32_t *old)
{
    const struct bag *b = l->bag;
    const uint64_t *once = l->once + (size_t)row * b->words, *a = l->x + (size_t)out * b->words;
    const uint64_t *twice = l->twice + (size_t)row * b->words, *z = l->x + (size_t)in * b->words;
    int32_t *count = l->touched + (size_t)row * b->classes;

    memcpy(old, count, b->classes * sizeof *old);
    for (uint32_t c = 0; c < b->classes; c++) {
        uint32_t w = b->class_word[c];

        count[c] = (int32_t)l->bits->count_exchange(once + w, twice + w, a + w, z + w,
                                                    b->class_word[c + 1] - w);
    }
}

static void exchange_counters(struct layer *l, uint32_t ga, uint32_t gb, uint32_t a, uint32_t b)
{
    size_t classes = l->bag->classes;

    l->bits->exchange(l->load + (size_t)ga * l->samples, l->load + (size_t)gb * l->samples,
                      l->cost + (size_t)a * l->samples, l->cost + (size_t)b * l->samples,
                      l->samples);
    if (l->bag->groups)
        l->bits->exchange(l->flows + (size_t)ga * l->samples, l->flows + (size_t)gb * l->samples,
                          l->flow + (size_t)a * l->samples, l->flow + (size_t)b * l->samples,
                          l->samples);
    for (size_t c = 0; l->p->cluster.exact_combine && c < classes; c++) {
        int32_t shift = l->class_pairs[b * classes + c] - l->class_pairs[a * classes + c];

        l->pairs[ga * classes + c] += shift;
        l->pairs[gb * classes + c] -= shift;
    }
    l->moves[l->move[(size_t)a * l->ranks + ga]]--;
    l->moves[l->move[(size_t)b * l->ranks + gb]]--;
    l->moves[l->move[(size_t)a * l->ranks + gb]]++;
    l->moves[l->move[(size_t)b * l->ranks + ga]]++;
}

/* Rows that an exchange changes: two ranks, and two nodes where they count on their own. */
struct rows {
    uint32_t n, row[4], out[4], in[4];
};

static struct rows rows_of(const struct layer *l, uint32_t ga, uint32_t gb, uint32_t a, uint32_t b)
{
    const uint16_t *node = l->p->cluster.node;
    struct rows r = {2, {ga, gb}, {a, b}, {b, a}};

    if (l->p->cluster.two_level && node[ga] != node[gb]) {
        r = (struct rows){
            4, {ga, gb, l->ranks + node[ga], l->ranks + node[gb]}, {a, b, a, b}, {b, a, b, a}};
    }
    return r;
}

bool layer_exchange(struct layer *l, uint32_t slot_a, uint32_t slot_b, double most)
{
    uint32_t ga = l->slot_rank[slot_a], gb = l->slot_rank[slot_b];
    uint32_t a = l->item[slot_a], b = l->item[slot_b];
    struct rows r = rows_of(l, ga, gb, a, b);
    size_t classes = l->bag->classes;
    double price;

    exchange_counters(l, ga, gb, a, b);
    for (uint32_t i = 0; i < r.n; i++)
        recount(l, r.row[i], r.out[i], r.in[i], l->old + i * classes);
    price = layer_price_within(l, l->price + most);
    if (price > l->price + most) {
        exchange_counters(l, ga, gb, b, a);
        for (uint32_t i = 0; i < r.n; i++)
            memcpy(l->touched + r.row[i] * classes, l->old + i * classes, classes * sizeof *l->old);
        return false;
    }
    l->item[slot_a] = (uint16_t)b;
    l->item[slot_b] = (uint16_t)a;
    gather_rank(l, ga);
    gather_rank(l, gb);
    if (r.n == 4) {
        gather_node(l, l->p->cluster.node[ga]);
        gather_node(l, l->p->cluster.node[gb]);
    }
    l->price = price;
    return true;
}
