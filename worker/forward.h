/* One forward pass over a rank's rows. Knows kernels, the transport and the model; nothing of steps
 * or sequences. */
#ifndef MT_WORKER_FORWARD_H
#define MT_WORKER_FORWARD_H

#include <stdint.h>

#include "api/status.h"
#include "kernels/kernels.h"
#include "worker/ep.h"
#include "worker/experts.h"
#include "worker/kvcache.h"
#include "worker/model.h"

#define FORWARD_LOGIT_ROWS 64 /* rows of logits made at a time */

struct forward;

/* Takes all buffers for ep's shape. Pointers are borrowed for the life of the object. */
int forward_open(struct kernels *k, struct ep *ep, const struct model *model,
                 const struct kvcache *kv, struct forward **ret, struct mt_err *reterr);
void forward_close(struct forward *f); /* NULL allowed */
/* Calls moved(user) after each layer. */
void forward_watch(struct forward *f, void (*moved)(void *user), void *user);

/* Collective. Runs ids[rows->n] (rows->n may be 0) through all layers, writes their keys and
 * values, and keeps the last hidden states. *ret_wait_ns: time spent waiting for other ranks. */
int forward_run(struct forward *f, const struct expert_map *map, const int32_t *ids,
                const struct kernel_rows *rows, uint64_t *ret_wait_ns, struct mt_err *reterr);

/* Logits of n <= FORWARD_LOGIT_ROWS rows of the last run, row[n] ascending: [n][vocab], valid until
 * the next call. */
const float *forward_logits(struct forward *f, const uint32_t *row, uint32_t n);

#endif
