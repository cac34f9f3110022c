/* A placement: which ranks hold which expert, and its file (JSON, one line per layer).
 *
 * Pure: no threads, clocks, MPI or HTTP. Copies are CSR over (layer, expert), layer-major. The
 * first rank of a pair is its primary copy; no rank occurs twice in a pair; every pair has at least
 * one copy (I1). */
#ifndef MT_PLACEMENT_PLAN_H
#define MT_PLACEMENT_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "api/status.h"

#define PLAN_MAX_LAYERS 256
#define PLAN_MAX_EXPERTS 1024
#define PLAN_MAX_RANKS 256
#define PLAN_MAX_FILE (64u << 20)

struct plan {
    uint32_t layers, experts, ranks;
    uint32_t *start; /* [layers*experts + 1], owned */
    uint16_t *rank;  /* [start[layers*experts]], owned */
    float *share; /* as rank: the part of a pair's tokens that a draw gives to the copy; sums to 1
                     over a pair; owned. NULL: even */
};

/* Expert e on rank e * ranks / experts in every layer (the even, contiguous default; experts <
 * ranks leaves ranks bare). */
int plan_contiguous(uint32_t layers, uint32_t experts, uint32_t ranks, struct plan *ret,
                    struct mt_err *reterr);
/* From held[layers][experts][ranks], non-zero where a rank has a copy; lowest rank first. */
int plan_from_held(uint32_t layers, uint32_t experts, uint32_t ranks, const uint8_t *held,
                   struct plan *ret, struct mt_err *reterr);
int plan_copy(const struct plan *p, struct plan *ret, struct mt_err *reterr);
/* Parses and checks; errors name the field, layer and expert. `name` is for messages. Unknown keys
 * are ignored. */
int plan_parse(const char *bytes, size_t len, const char *name, struct plan *ret,
               struct mt_err *reterr);
int plan_read(const char *path, struct plan *ret, struct mt_err *reterr);
/* Writes {"layers":..,"experts":..,"ranks":..,"copies":[ one line per layer ]}, and with p->share
 * "split":[ one line per layer: for each expert the fraction of each copy, or [] for even ].
 * report: JSON text or NULL. */
int plan_write(FILE *out, const struct plan *p, const char *report, struct mt_err *reterr);
/* Refuses a plan whose shape is not the one given, naming both. */
int plan_check(const struct plan *p, uint32_t layers, uint32_t experts, uint32_t ranks,
               struct mt_err *reterr);
/* Slots that a rank needs: the most copies it holds in any layer. */
uint32_t plan_slots(const struct plan *p, uint32_t rank);
/* Whether the rank has a copy of the pair layer * experts + expert. */
bool plan_holds(const struct plan *p, size_t pair, uint32_t rank);
void plan_done(struct plan *p);

#endif
