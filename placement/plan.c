#include "placement/plan.h"

#include <stdlib.h>
#include <string.h>

/* Shape within the caps; `name` is for messages. */
static int check_shape(const char *name, int64_t layers, int64_t experts, int64_t ranks,
                       struct mt_err *reterr)
{
    const struct {
        const char *field;
        int64_t value, max;
    } rows[] = {
        {"layers", layers, PLAN_MAX_LAYERS},
        {"experts", experts, PLAN_MAX_EXPERTS},
        {"ranks", ranks, PLAN_MAX_RANKS},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1 || rows[i].value > rows[i].max)
            return mt_error(reterr, MT_EINVAL, "%s: %s: expected 1 to %lld, found %lld", name,
                            rows[i].field, (long long)rows[i].max, (long long)rows[i].value);
    return 0;
}

int plan_contiguous(uint32_t layers, uint32_t experts, uint32_t ranks, struct plan *ret,
                    struct mt_err *reterr)
{
    size_t pairs = (size_t)layers * experts;
    int rc = check_shape("placement", layers, experts, ranks, reterr);
    struct plan p = {.layers = layers, .experts = experts, .ranks = ranks};

    if (rc)
        return rc;
    p.start = calloc(pairs + 1, sizeof *p.start);
    p.rank = calloc(pairs, sizeof *p.rank);
    if (!p.start || !p.rank) {
        plan_done(&p);
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for %u layers of %u experts",
                        layers, experts);
    }
    for (size_t i = 0; i < pairs; i++) {
        p.start[i + 1] = (uint32_t)i + 1;
        p.rank[i] = (uint16_t)((uint64_t)(i % experts) * ranks / experts);
    }
    *ret = p;
    return 0;
}

int plan_copy(const struct plan *p, struct plan *ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)p->layers * p->experts, copies = p->start[pairs];
    struct plan q = {.layers = p->layers, .experts = p->experts, .ranks = p->ranks};

    q.start = calloc(pairs + 1, sizeof *q.start);
    q.rank = calloc(copies, sizeof *q.rank);
    if (p->share)
        q.share = calloc(copies, sizeof *q.share);
    if (!q.start || !q.rank || (p->share && !q.share)) {
        plan_done(&q);
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for %zu copies", copies);
    }
    memcpy(q.start, p->start, (pairs + 1) * sizeof *q.start);
    memcpy(q.rank, p->rank, copies * sizeof *q.rank);
    if (p->share)
        memcpy(q.share, p->share, copies * sizeof *q.share);
    *ret = q;
    return 0;
}

int plan_from_held(uint32_t layers, uint32_t experts, uint32_t ranks, const uint8_t *held,
                   struct plan *ret, struct mt_err *reterr)
{
    size_t pairs = (size_t)layers * experts, copies = 0;
    int rc = check_shape("placement", layers, experts, ranks, reterr);
    struct plan p = {.layers = layers, .experts = experts, .ranks = ranks};

    if (rc)
        return rc;
    for (size_t i = 0; i < pairs * ranks; i++)
        copies += held[i] != 0;
    p.start = calloc(pairs + 1, sizeof *p.start);
    p.rank = calloc(copies + 1, sizeof *p.rank);
    if (!p.start || !p.rank) {
        plan_done(&p);
        return mt_error(reterr, MT_ENOMEM, "placement: no memory for %zu copies", copies);
    }
    for (size_t i = 0; i < pairs; i++) {
        p.start[i + 1] = p.start[i];
        for (uint32_t g = 0; g < ranks; g++)
            if (held[i * ranks + g])
                p.rank[p.start[i + 1]++] = (uint16_t)g;
        if (p.start[i + 1] > p.start[i])
            continue;
        plan_done(&p);
        return mt_error(reterr, MT_EINVAL,
                        "placement: layer %zu, expert %zu: expected a copy, found none",
                        i / experts, i % experts);
    }
    *ret = p;
    return 0;
}

int plan_check(const struct plan *p, uint32_t layers, uint32_t experts, uint32_t ranks,
               struct mt_err *reterr)
{
    if (p->layers == layers && p->experts == experts && p->ranks == ranks)
        return 0;
    return mt_error(reterr, MT_EINVAL,
                    "placement: expected %u MoE layers, %u experts, %u ranks; "
                    "found %u layers, %u experts, %u ranks",
                    layers, experts, ranks, p->layers, p->experts, p->ranks);
}

uint32_t plan_slots(const struct plan *p, uint32_t rank)
{
    uint32_t most = 0;

    for (uint32_t l = 0; l < p->layers; l++) {
        const uint32_t *start = p->start + (size_t)l * p->experts;
        uint32_t held = 0;

        for (uint32_t i = start[0]; i < start[p->experts]; i++)
            held += p->rank[i] == rank;
        if (held > most)
            most = held;
    }
    return most;
}

bool plan_holds(const struct plan *p, size_t pair, uint32_t rank)
{
    for (uint32_t i = p->start[pair]; i < p->start[pair + 1]; i++)
        if (p->rank[i] == rank)
            return true;
    return false;
}

void plan_done(struct plan *p)
{
    if (!p)
        return;
    free(p->start);
    free(p->rank);
    free(p->share);
    *p = (struct plan){0};
}
