/* What is wrong with an API call, and its JSON in OpenAI's shape:
 *   {"error": {"message": ..., "type": "invalid_request_error", "param": "temperature", "code":
 * null}} */
#ifndef MT_DAEMON_PROBLEM_H
#define MT_DAEMON_PROBLEM_H

#include "api/buf.h"
#include "api/status.h"
#include "daemon/http.h"

struct problem {
    int status;        /* of HTTP; 0: none */
    const char *type;  /* NULL: what suits the status */
    const char *code;  /* NULL: null */
    const char *param; /* NULL: null; a literal */
    int retry_after_s; /* 0: no such header */
    char message[MT_ERR_TEXT];
};

/* A 400 that names the parameter. Returns false, so that `return problem_param(...)` works. */
bool problem_param(struct problem *p, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));
/* Any other. code may be NULL. */
bool problem_set(struct problem *p, int status, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5), cold));
/* Memory ran out: a 503, because it may do later. */
bool problem_memory(struct problem *p);
/* The engine refused or failed a request: MT_ELIMIT is a 429, MT_ECLOSED a 503, and so on. */
bool problem_from(struct problem *p, const struct mt_err *err);

/* Appends the JSON object, without a newline. */
void problem_print(const struct problem *p, struct buf *out);
/* Answers with it. */
void problem_reply(const struct problem *p, struct exchange *x);

#endif
