/* Generated traces, for shapes of which there is no recorded one.
 *
 * A document has a topic and words of its own; each token is of a latent kind, drawn from the
 * document's words, its topic's kinds or all kinds (each by Zipf's law). In each layer a kind
 * prefers experts by popularity, by communities of experts and on its own; topk of them are drawn
 * without repetition, each in proportion to what is preferred (Plackett-Luce). From layer to layer
 * a token keeps its kind or is drawn another: a Markov chain, which makes experts of neighbouring
 * layers depend on each other. With groups, a kind is served by its best groups only, as in
 * DeepSeek-V3. Pure; deterministic for a seed. */
#ifndef MT_PLACEMENT_GEN_H
#define MT_PLACEMENT_GEN_H

#include "placement/trace.h"

#define GEN_MAX_KINDS 4096
#define GEN_MAX_TOPICS 256

struct gen_options {
    char name[TRACE_NAME];
    uint32_t layers, experts, topk;
    uint32_t tokens, documents;
    uint64_t seed;
    uint32_t kinds;     /* of tokens */
    uint32_t topics;    /* of documents */
    uint32_t words;     /* kinds that a document has as its own */
    uint32_t community; /* experts of one community */
    uint32_t groups;    /* of contiguous experts; 1: none */
    uint32_t groups_chosen;
    double length_spread;    /* standard deviation of the logarithm of documents' lengths */
    double popularity;       /* the same of experts' popularity */
    double skew;             /* x + skew (x^2 - 1) for normal x: more hot experts than cold ones */
    double group_popularity; /* of groups' */
    double together;         /* of a kind's preference for a community */
    double alone;            /* of a kind's preference for an expert */
    double own, topical;     /* tokens drawn from the document's words, from its topic; sum <= 1 */
    double linger;           /* probability that a token is of the kind of the one before it */
    double stay;             /* probability that a token keeps its kind to the next layer */
};

/* For a shape: what recorded traces are like. Sets all fields; any may be changed then. */
void gen_defaults(uint32_t layers, uint32_t experts, uint32_t topk, struct gen_options *ret);
int gen_trace(const struct gen_options *o, struct trace *ret, struct mt_err *reterr);

#endif
