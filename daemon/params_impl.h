/* What daemon/params*.c share. */
#ifndef MT_DAEMON_PARAMS_IMPL_H
#define MT_DAEMON_PARAMS_IMPL_H

#include "daemon/params.h"

/* "Invalid type for 'x': expected a boolean, but got a string instead."; returns false. */
bool params_wrong_type(struct problem *p, const char *name, const char *expected,
                       const json_t *found);

/* The prompt of a completion, in its four forms; the messages of a chat. */
bool params_prompts(const json_t *root, const struct limits *limits, struct call *c,
                    struct problem *p);
bool params_messages(const json_t *root, const struct limits *limits, struct call *c,
                     struct problem *p);

#endif
