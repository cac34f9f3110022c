/* Traces and loads, and the problem made of them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "cli/place.h"
#include "placement/foreign.h"

#define MAX_JSON (256u << 20)

/* A trace's JSON tells its documents; what else there is are loads. */
static int is_trace(const char *path, bool *ret, struct mt_err *reterr)
{
    json_error_t at;
    json_t *root;
    size_t len;
    char *bytes;
    int rc = file_read(path, MAX_JSON, &bytes, &len, reterr);

    if (rc)
        return rc;
    root = json_loadb(bytes, len, 0, &at);
    *ret = root && json_object_get(root, "documents");
    if (!root)
        rc = mt_error(reterr, MT_EINVAL, "%s: line %d, column %d: %s", path, at.line, at.column,
                      at.text);
    json_decref(root);
    free(bytes);
    return rc;
}

static int parse_bound(const char *text, const char *end, uint32_t none, uint32_t *ret)
{
    char *rest;
    unsigned long n;

    if (text == end)
        return *ret = none, 0;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    n = strtoul(text, &rest, 10);
    if (errno || rest != end || n > UINT32_MAX)
        return -1;
    *ret = (uint32_t)n;
    return 0;
}

/* "A:B" -> documents A .. B - 1; either may be missing. */
static int parse_documents(const char *text, uint32_t *ret_first, uint32_t *ret_end,
                           struct mt_err *reterr)
{
    const char *colon = strchr(text, ':');

    if (!colon || parse_bound(text, colon, 0, ret_first) ||
        parse_bound(colon + 1, text + strlen(text), UINT32_MAX, ret_end) || *ret_first >= *ret_end)
        return mt_error(reterr, MT_EINVAL, "option documents: expected A:B with A < B, found %.80s",
                        text);
    return 0;
}

/* Replaces *t by a part of it. */
static int cut(struct trace *t, uint32_t first, uint32_t n, uint32_t max_tokens,
               struct mt_err *reterr)
{
    struct trace part;
    int rc = trace_slice(t, first, n, max_tokens, &part, reterr);

    if (rc)
        return rc;
    trace_done(t);
    *t = part;
    return 0;
}

static int cut_documents(const struct place_input *in, const char *path, struct trace *t,
                         struct mt_err *reterr)
{
    uint32_t first, end;
    int rc = parse_documents(in->documents, &first, &end, reterr);

    if (rc)
        return rc;
    if (end == UINT32_MAX)
        end = t->documents;
    if (end > t->documents || first >= end)
        return mt_error(reterr, MT_EINVAL,
                        "option documents: %s: expected documents of 0 to %u, found %.80s", path,
                        t->documents, in->documents);
    return cut(t, first, end - first, 0, reterr);
}

static double *new_loads(uint32_t layers, uint32_t experts, struct mt_err *reterr)
{
    double *load = calloc((size_t)layers * experts, sizeof *load);

    if (!load)
        mt_error(reterr, MT_ENOMEM, "no memory for the loads of %u layers of %u experts", layers,
                 experts);
    return load;
}

/* What follows from the trace in *s. */
static int describe_trace(struct place_source *s, struct mt_err *reterr)
{
    s->load = new_loads(s->trace.layers, s->trace.experts, reterr);
    if (!s->load)
        return MT_ENOMEM;
    trace_loads(&s->trace, s->load);
    s->paths = true;
    s->tokens = s->trace.tokens;
    snprintf(s->name, sizeof s->name, "%s", s->trace.name);
    return 0;
}

static int read_trace(const struct place_input *in, const char *path, uint32_t first_tokens,
                      struct place_source *s, struct mt_err *reterr)
{
    int rc = trace_read(path, &s->trace, reterr);

    if (!rc && in->documents)
        rc = cut_documents(in, path, &s->trace, reterr);
    if (!rc && first_tokens && first_tokens < s->trace.tokens)
        rc = cut(&s->trace, 0, s->trace.documents, first_tokens, reterr);
    return rc ? rc : describe_trace(s, reterr);
}

/* Loads alone; their shape is kept where a trace would have it. */
static int read_loads(const char *path, struct place_source *s, struct mt_err *reterr)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name);
    struct loads loads;
    int rc = loads_read(path, &loads, reterr);

    if (rc == MT_ENOTFOUND)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected a trace (\"documents\") or loads (\"load\"), found neither; "
                        "`moetuner place import` makes loads of what others record",
                        path);
    if (rc)
        return rc;
    if (len > 5 && !strcmp(name + len - 5, ".json"))
        len -= 5;
    snprintf(s->name, sizeof s->name, "%.*s", (int)(len < TRACE_NAME ? len : TRACE_NAME - 1), name);
    s->trace.layers = loads.layers;
    s->trace.experts = loads.experts;
    s->trace.topk = loads.topk;
    s->load = loads.load;
    s->tokens = 1; /* not known: domains weigh the same */
    return 0;
}

static int read_source(const struct place_input *in, const char *path, uint32_t first_tokens,
                       struct place_set *set, struct mt_err *reterr)
{
    struct place_source *s = &set->source[set->sources++]; /* counted first: freed with the set */
    uint32_t layers, experts, topk;
    bool trace = false;
    int rc = is_trace(path, &trace, reterr);

    if (rc)
        return rc;
    rc = trace ? read_trace(in, path, first_tokens, s, reterr) : read_loads(path, s, reterr);
    if (rc)
        return rc;
    layers = s->trace.layers, experts = s->trace.experts, topk = s->trace.topk;
    if (set->sources == 1) {
        set->layers = layers, set->experts = experts, set->topk = topk;
        set->paths = true;
    }
    set->paths = set->paths && s->paths;
    if (layers != set->layers || experts != set->experts || topk != set->topk)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected %u layers, %u experts, top-%u as in the trace before it, "
                        "found %u, %u, top-%u",
                        path, set->layers, set->experts, set->topk, layers, experts, topk);
    return 0;
}

int place_set_read(const struct place_input *in, const char *const *path, uint32_t n,
                   uint32_t first_tokens, struct place_set *ret, struct mt_err *reterr)
{
    int rc = 0;

    memset(ret, 0, sizeof *ret);
    if (!n)
        return mt_error(reterr, MT_EINVAL, "expected --trace, found none");
    for (uint32_t i = 0; !rc && i < n; i++)
        rc = read_source(in, path[i], first_tokens, ret, reterr);
    return rc;
}

static int split_source(const struct place_source *s, double fraction, uint32_t first_tokens,
                        struct place_source *fit, struct place_source *rest, struct mt_err *reterr)
{
    uint32_t n;
    int rc;

    if (!s->paths) {
        size_t cells = (size_t)s->trace.layers * s->trace.experts;

        *fit = *rest = *s;
        fit->load = new_loads(s->trace.layers, s->trace.experts, reterr);
        rest->load = new_loads(s->trace.layers, s->trace.experts, reterr);
        if (!fit->load || !rest->load)
            return MT_ENOMEM;
        memcpy(fit->load, s->load, cells * sizeof *s->load);
        memcpy(rest->load, s->load, cells * sizeof *s->load);
        return 0;
    }
    if (s->trace.documents < 2)
        return mt_error(reterr, MT_EINVAL,
                        "%s: expected several documents to fit on one part and score on the other, "
                        "found %u",
                        s->name, s->trace.documents);
    n = trace_split(&s->trace, fraction);
    rc = trace_slice(&s->trace, 0, n, first_tokens, &fit->trace, reterr);
    if (!rc)
        rc = describe_trace(fit, reterr);
    if (!rc)
        rc = trace_slice(&s->trace, n, s->trace.documents - n, 0, &rest->trace, reterr);
    if (!rc)
        rc = describe_trace(rest, reterr);
    return rc;
}

int place_set_split(const struct place_set *s, double fraction, uint32_t first_tokens,
                    struct place_set *ret_fit, struct place_set *ret_rest, struct mt_err *reterr)
{
    int rc = 0;

    memset(ret_fit, 0, sizeof *ret_fit);
    memset(ret_rest, 0, sizeof *ret_rest);
    ret_fit->layers = ret_rest->layers = s->layers;
    ret_fit->experts = ret_rest->experts = s->experts;
    ret_fit->topk = ret_rest->topk = s->topk;
    ret_fit->paths = ret_rest->paths = s->paths;
    for (uint32_t i = 0; !rc && i < s->sources; i++) {
        ret_fit->sources = ret_rest->sources = i + 1;
        rc = split_source(&s->source[i], fraction, first_tokens, &ret_fit->source[i],
                          &ret_rest->source[i], reterr);
    }
    return rc;
}

void place_set_done(struct place_set *s)
{
    for (uint32_t i = 0; i < s->sources; i++) {
        trace_done(&s->source[i].trace);
        free(s->source[i].load);
        s->source[i].load = NULL;
    }
    s->sources = 0;
}

static double domain_weight(const struct place_input *in, const struct place_set *s, uint32_t i)
{
    double all = 0;

    for (uint32_t k = 0; k < s->sources; k++)
        all += s->source[k].tokens;
    return in->weight == PLACE_WEIGHT_TOKENS && all > 0 ? s->source[i].tokens / all
                                                        : 1.0 / s->sources;
}

static void add_scenario(const struct place_source *s, enum place_phase phase, double share,
                         int64_t tokens, struct place_problem *p)
{
    struct place_scenario *c = &p->scenario[p->scenarios];

    if (share <= 0)
        return;
    snprintf(c->name, sizeof c->name, "%.*s %s", TRACE_NAME - 9, s->name,
             phase == PLACE_DECODE ? "decode" : "prefill");
    c->phase = phase;
    c->share = share;
    c->tokens = (uint32_t)tokens;
    c->trace = s->paths ? &s->trace : NULL;
    c->load = s->load;
    p->scenarios++;
}

/* Slots beyond the even number that the plan needs. */
static uint32_t plan_spare(const struct plan *plan)
{
    uint32_t even = (plan->experts + plan->ranks - 1) / plan->ranks, most = 0;

    for (uint32_t g = 0; g < plan->ranks; g++)
        if (plan_slots(plan, g) > most)
            most = plan_slots(plan, g);
    return most > even ? most - even : 0;
}

static bool slots_hold(const struct cluster *c, const struct plan *plan)
{
    for (uint32_t g = 0; g < c->ranks && g < plan->ranks; g++)
        if (plan_slots(plan, g) > c->slots[g])
            return false;
    return true;
}

static int check_weights(const struct place_input *in, const struct place_set *s,
                         struct mt_err *reterr)
{
    for (uint32_t i = 0; in->weight == PLACE_WEIGHT_TOKENS && i < s->sources; i++)
        if (!s->source[i].paths)
            return mt_error(reterr, MT_EINVAL,
                            "option weight: expected traces to weigh by their tokens, found loads "
                            "(%s)",
                            s->source[i].name);
    return 0;
}

static int make_cluster(const struct place_input *in, const struct place_set *s, uint32_t spare,
                        const struct plan *plan, struct cluster *ret, struct mt_err *reterr)
{
    struct model_dims dims;
    bool known;
    int rc = place_dims(in, s, &dims, &known, reterr);

    if (!rc)
        rc = place_need(in->cluster, "cluster", reterr);
    if (!rc)
        rc = cluster_read(in->cluster, known ? &dims : NULL, s->experts, spare, ret, reterr);
    if (rc || !plan || plan->ranks != ret->ranks || plan->experts != s->experts ||
        slots_hold(ret, plan))
        return rc;
    return cluster_read(in->cluster, known ? &dims : NULL, s->experts, plan_spare(plan), ret,
                        reterr);
}

int place_problem_make(const struct place_input *in, const struct place_set *s, uint32_t spare,
                       const struct plan *plan, struct place_problem *ret, struct mt_err *reterr)
{
    struct place_problem p = {
        .layers = s->layers,
        .experts = s->experts,
        .topk = s->topk,
        .semantics = (enum place_semantics)in->semantics,
        .homes = (enum place_homes)in->homes,
        .prompt_fraction = in->prompt_fraction,
        .prompt_tokens = (uint32_t)in->prompt_tokens,
        .home_slack = in->home_slack,
    };
    int rc = check_weights(in, s, reterr);

    if (!rc)
        rc = make_cluster(in, s, spare, plan, &p.cluster, reterr);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < s->sources; i++) {
        double w = domain_weight(in, s, i);

        add_scenario(&s->source[i], PLACE_PREFILL, w * (1 - in->decode_share), in->prefill_tokens,
                     &p);
        add_scenario(&s->source[i], PLACE_DECODE, w * in->decode_share, in->decode_batch, &p);
    }
    rc = place_check(&p, reterr);
    if (!rc && plan)
        rc = place_fits(&p, plan, reterr);
    if (!rc)
        *ret = p;
    return rc;
}
