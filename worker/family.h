/* The families of models, one row of a table each; see struct family in worker/model.h. A family's
 * file supplies its row; nothing else knows it. */
#ifndef MT_WORKER_FAMILY_H
#define MT_WORKER_FAMILY_H

#include "worker/model.h"

extern const struct family family_mixtral;

#endif
