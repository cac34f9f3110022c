/* Generated traces, for shapes of which there is no recorded one.
 *
 * A document has a topic and words of its own; each token is of a latent kind: that of the token
 * before it, or one of the document's words, or of its topic's kinds or of all kinds (by Zipf's
 * law). A kind likes the same communities in all layers; which experts form a community differs.
 * In each layer a kind prefers experts by popularity, by community and on its own, and topk of them
 * are drawn without repetition, each in proportion (Plackett-Luce). From layer to layer a token
 * keeps its kind or is drawn another: a Markov chain, which makes the experts of neighbouring
 * layers depend on each other. With groups, a kind is served by its best groups only, as in
 * DeepSeek-V3.
 *
 * The defaults were fitted to DeepSeek-V2-Lite (31,407 tokens of 362 prompts), and with groups,
 * from 256 experts on, to what is known of DeepSeek-V3 (loads of five workloads). Figures are those
 * of tests/bench/place_stats.py, over 8 ranks; in brackets, if experts were independent:
 *
 *                                        V2-Lite        26x64x6, seeds 1, 2, 3
 *     hottest expert / mean              1.88           1.89  1.90  1.96
 *     contiguous ranks, max / mean       1.135          1.152 1.153 1.169
 *     packed by half, scored on half     1.095          1.113 1.096 1.090
 *     distinct ranks of a token          4.55 (4.54)    4.54  4.52  4.54
 *     three commonest companions         0.198 (0.079)  0.201 0.199 0.188
 *     three commonest successors         0.193 (0.079)  0.188 0.187 0.176
 *     shared with the token before       0.266          0.263 0.261 0.261
 *     shared with the one 20 before      0.148          0.151 0.147 0.156
 *     distinct ranks, method grace       3.387          3.324 3.428 3.431
 *
 *                                        V3             58x256x8, seed 1
 *     hottest expert / mean (worst)      5.6-8.1 (10.1-13.7)   6.6 (11.3)
 *     experts below a quarter of it      0.02-0.12      0.09
 *     contiguous ranks, max / mean       1.67-2.07      1.85
 *
 * Nothing is known of V3's companions and successors, or of Qwen3's; there the generator only
 * extrapolates. Pure; deterministic for a seed. */
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
