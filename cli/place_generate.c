/* moetuner place generate: traces of shapes of which none is recorded. */
#include <stdlib.h>
#include <string.h>

#include "cli/place.h"
#include "placement/gen.h"

struct config {
    char *name, *output;
    int64_t layers, experts, topk, tokens, documents, seed;
    int64_t kinds, topics, words, community, groups, groups_chosen;
    double length_spread, popularity, group_popularity, together, alone, own, topical, stay;
    bool help;
};

#define AT(field) offsetof(struct config, field)
#define S_SHAPE "Shape"
#define S_STATISTICS "Statistics; -1: as recorded traces of such a shape have them"
#define INT(name, field, value, min, max, section, help) \
    { \
        name, OPTION_INT, AT(field), value, min, max, NULL, "N", section, help \
    }
#define REAL(name, field, help) \
    { \
        name, OPTION_REAL, AT(field), "-1", -1, 100, NULL, "X", S_STATISTICS, help \
    }

static const struct option OPTIONS[] = {
    INT("layers", layers, "0", 0, PLACE_MAX_LAYERS, S_SHAPE, "MoE layers."),
    INT("experts", experts, "0", 0, PLACE_MAX_EXPERTS, S_SHAPE, "Experts of a layer."),
    INT("topk", topk, "0", 0, TRACE_MAX_TOPK, S_SHAPE, "Experts that a token chooses."),
    INT("tokens", tokens, "10000", 1, TRACE_MAX_TOKENS, S_SHAPE, "Tokens in all."),
    INT("documents", documents, "0", 0, TRACE_MAX_TOKENS, S_SHAPE,
        "Documents; 0: one for each 256 tokens."),
    {"name", OPTION_TEXT, AT(name), "generated", 0, 0, NULL, "NAME", S_SHAPE,
     "The trace's domain."},
    INT("seed", seed, "0", 0, 1e15, S_SHAPE, "Of all that is random."),

    INT("kinds", kinds, "-1", -1, GEN_MAX_KINDS, S_STATISTICS, "Kinds of tokens."),
    INT("topics", topics, "-1", -1, GEN_MAX_TOPICS, S_STATISTICS, "Topics of documents."),
    INT("words", words, "-1", -1, GEN_MAX_KINDS, S_STATISTICS,
        "Kinds that a document has as its own."),
    INT("community", community, "-1", -1, PLACE_MAX_EXPERTS, S_STATISTICS,
        "Experts of one community."),
    INT("groups", groups, "-1", -1, PLACE_MAX_EXPERTS, S_STATISTICS,
        "Groups of contiguous experts; 1: none."),
    INT("groups-chosen", groups_chosen, "-1", -1, PLACE_MAX_EXPERTS, S_STATISTICS,
        "Groups that serve a kind."),
    REAL("length-spread", length_spread,
         "Standard deviation of the logarithm of documents' lengths."),
    REAL("popularity", popularity, "The same of experts' popularity."),
    REAL("group-popularity", group_popularity, "The same of groups'."),
    REAL("together", together, "The same of a kind's preference for a community."),
    REAL("alone", alone, "The same of a kind's preference for an expert."),
    REAL("own", own, "Part of the tokens that are drawn from the document's words."),
    REAL("topical", topical, "Part of the tokens that are drawn from its topic."),
    REAL("stay", stay, "Probability that a token keeps its kind to the next layer."),

    {"output", OPTION_TEXT, AT(output), NULL, 0, 0, NULL, "T.json", "Output",
     "The trace's file (also: -o T.json); the ids lie beside it."},
    PLACE_ROW_HELP(struct config),
    {0},
};

static int check(const struct config *c, struct mt_err *reterr)
{
    if (!c->layers || !c->experts || !c->topk)
        return mt_error(reterr, MT_EINVAL, "expected --layers, --experts and --topk, found none");
    if (c->documents > c->tokens)
        return mt_error(reterr, MT_EINVAL, "option documents: expected at most %lld, found %lld",
                        (long long)c->tokens, (long long)c->documents);
    return place_need(c->output, "output", reterr);
}

static void set_count(uint32_t *field, int64_t value)
{
    if (value >= 0)
        *field = (uint32_t)value;
}

static void set_real(double *field, double value)
{
    if (value >= 0)
        *field = value;
}

static void fill(const struct config *c, struct gen_options *o)
{
    gen_defaults((uint32_t)c->layers, (uint32_t)c->experts, (uint32_t)c->topk, o);
    snprintf(o->name, sizeof o->name, "%s", c->name);
    o->tokens = (uint32_t)c->tokens;
    o->documents = (uint32_t)(c->documents ? c->documents : (c->tokens + 255) / 256);
    o->seed = (uint64_t)c->seed;
    set_count(&o->kinds, c->kinds);
    set_count(&o->topics, c->topics);
    set_count(&o->words, c->words);
    set_count(&o->community, c->community);
    set_count(&o->groups, c->groups);
    set_count(&o->groups_chosen, c->groups_chosen);
    set_real(&o->length_spread, c->length_spread);
    set_real(&o->popularity, c->popularity);
    set_real(&o->group_popularity, c->group_popularity);
    set_real(&o->together, c->together);
    set_real(&o->alone, c->alone);
    set_real(&o->own, c->own);
    set_real(&o->topical, c->topical);
    set_real(&o->stay, c->stay);
}

static int generate(const void *config, const struct place_args *args, int stop_fd,
                    struct mt_err *reterr)
{
    const struct config *c = config;
    struct gen_options o;
    struct trace t;
    int rc = check(c, reterr);

    (void)args;
    (void)stop_fd;
    if (rc)
        return rc;
    fill(c, &o);
    rc = gen_trace(&o, &t, reterr);
    if (rc)
        return rc;
    rc = trace_write(&t, c->output, reterr);
    if (!rc)
        printf("%s: %u layers of %u experts, top-%u: %u tokens in %u documents\n", c->output,
               t.layers, t.experts, t.topk, t.tokens, t.documents);
    trace_done(&t);
    return rc;
}

const struct place_command PLACE_GENERATE = {
    .usage = "--layers L --experts E --topk K -o T.json [OPTION...]",
    .about = "Makes a trace with the statistics of recorded ones; the same for the same "
             "options.",
    .options = OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .run = generate,
};
