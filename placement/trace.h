/* A routing trace: which experts each token chose in each MoE layer.
 *
 * A file NAME.json (layers, experts, topk, tokens, documents: tokens of each document) and beside
 * it NAME.u8, or NAME.u16 (little-endian) where there are more than 256 experts:
 * [tokens][layers][topk] expert ids. Pure; any thread, one object at a time. */
#ifndef MT_PLACEMENT_TRACE_H
#define MT_PLACEMENT_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "api/status.h"

#define TRACE_MAX_LAYERS 256
#define TRACE_MAX_EXPERTS 1024
#define TRACE_MAX_TOPK 16
#define TRACE_MAX_TOKENS (1u << 26)
#define TRACE_MAX_FILE (4ull << 30) /* bytes of ids */
#define TRACE_MAX_HEAD (64u << 20)  /* bytes of the .json */
#define TRACE_NAME 64

struct trace {
    char name[TRACE_NAME]; /* the domain, or the file's name */
    uint32_t layers, experts, topk, tokens, documents;
    uint32_t *doc;    /* [documents + 1] first token of each document, doc[documents] = tokens;
                         owned */
    uint16_t *choice; /* [tokens][layers][topk]; ids of one token and layer are distinct; owned */
};

/* The ids that `token` chose in `layer`: [topk], borrowed. */
static inline const uint16_t *trace_at(const struct trace *t, uint32_t token, uint32_t layer)
{
    return t->choice + ((size_t)token * t->layers + layer) * t->topk;
}

/* path: the .json. Errors name file, field or token and layer, and the expectation. The trace's
 * name is the file's "domain", or the file's own without folder and ending. */
int trace_read(const char *path, struct trace *ret, struct mt_err *reterr);
/* The same from bytes: the two files. name: the path of the .json, for messages. */
int trace_parse(const char *json, size_t len, const void *ids, size_t ids_len, const char *name,
                struct trace *ret, struct mt_err *reterr);
/* Writes path (which ends in .json) and the ids beside it. Each file is whole or the old one. */
int trace_write(const struct trace *t, const char *path, struct mt_err *reterr);
/* Checks what trace_read checks, for a trace that was made otherwise. */
int trace_check(const struct trace *t, struct mt_err *reterr);
/* A copy of documents first .. first + n - 1, at most max_tokens tokens of them (0: all; the last
 * document is cut). There is no empty trace: n = 0 is MT_EINVAL. */
int trace_slice(const struct trace *t, uint32_t first, uint32_t n, uint32_t max_tokens,
                struct trace *ret, struct mt_err *reterr);
/* Documents that make up `fraction` of all documents, rounded down, at least one, and not all if
 * there are several: the fitted half of a comparison. */
uint32_t trace_split(const struct trace *t, double fraction);
/* ret[layers][experts]: mean choices of an expert per token; a layer's sum is topk. */
void trace_loads(const struct trace *t, double *ret);
/* ret[experts][experts] of layer and layer + 1 (< layers): the sum over all tokens of a token's
 * pairs of experts, each weighted 1/topk, so that all of ret sums to tokens * topk. */
void trace_pairs(const struct trace *t, uint32_t layer, double *ret);
void trace_done(struct trace *t);

#endif
