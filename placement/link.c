#include "placement/link.h"

/* Traffic through one port. */
struct port {
    double vectors;
    uint32_t peers;
};

static void carry(struct port *p, double vectors)
{
    if (vectors > 0) {
        p->vectors += vectors;
        p->peers++;
    }
}

static double port_seconds(const struct port *p, const struct link *l, double bytes)
{
    return p->peers ? p->vectors * bytes / l->bandwidth + p->peers * l->latency : 0;
}

struct worst {
    double seconds;
    uint32_t port;
};

static void consider(struct worst *w, double seconds, uint32_t port)
{
    if (seconds > w->seconds)
        *w = (struct worst){seconds, port};
}

static void rank_ports(const struct cluster *c, const double *vectors, double bytes,
                       struct worst *w)
{
    for (uint32_t g = 0; g < c->ranks; g++) {
        struct port in = {0}, out = {0};

        for (uint32_t h = 0; h < c->ranks; h++) {
            if (h == g || c->node[h] != c->node[g])
                continue;
            carry(&in, vectors[(size_t)h * c->ranks + g]);
            carry(&out, vectors[(size_t)g * c->ranks + h]);
        }
        consider(w, port_seconds(&in, &c->rank_link, bytes), g * 2);
        consider(w, port_seconds(&out, &c->rank_link, bytes), g * 2 + 1);
    }
}

/* What node a sends to node b; first[node]: its first rank, since nodes are ranges of ranks. */
static double between(const struct cluster *c, const double *vectors, const double *network,
                      const uint32_t *first, uint32_t a, uint32_t b)
{
    double sum = 0;

    if (network)
        return network[(size_t)a * c->nodes + b];
    for (uint32_t h = first[a]; h < first[a + 1]; h++)
        for (uint32_t g = first[b]; g < first[b + 1]; g++)
            sum += vectors[(size_t)h * c->ranks + g];
    return sum;
}

static void node_ports(const struct cluster *c, const double *vectors, const double *network,
                       double bytes, struct worst *w)
{
    uint32_t first[PLAN_MAX_RANKS + 1];

    for (uint32_t g = c->ranks; g-- > 0;)
        first[c->node[g]] = g;
    first[c->nodes] = c->ranks;
    for (uint32_t a = 0; a < c->nodes; a++) {
        struct port in = {0}, out = {0};

        for (uint32_t b = 0; b < c->nodes; b++) {
            if (b == a)
                continue;
            carry(&in, between(c, vectors, network, first, b, a));
            carry(&out, between(c, vectors, network, first, a, b));
        }
        consider(w, port_seconds(&in, &c->node_link, bytes), (c->ranks + a) * 2);
        consider(w, port_seconds(&out, &c->node_link, bytes), (c->ranks + a) * 2 + 1);
    }
}

double link_seconds(const struct cluster *c, const double *vectors, const double *network,
                    double bytes, uint32_t *ret_port)
{
    struct worst w = {0};

    rank_ports(c, vectors, bytes, &w);
    if (c->nodes > 1)
        node_ports(c, vectors, network, bytes, &w);
    if (ret_port)
        *ret_port = w.port;
    return w.seconds;
}
