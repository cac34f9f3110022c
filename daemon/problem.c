#include "daemon/problem.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/json.h"

static bool problem_fill(struct problem *p, int status, const char *format, va_list args)
{
    *p = (struct problem){.status = status};
    vsnprintf(p->message, sizeof p->message, format, args);
    return false;
}

bool problem_param(struct problem *p, const char *param, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    problem_fill(p, 400, format, args);
    va_end(args);
    p->param = param;
    return false;
}

bool problem_set(struct problem *p, int status, const char *code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    problem_fill(p, status, format, args);
    va_end(args);
    p->code = code;
    if (status == 429)
        p->retry_after_s = 1;
    else if (status == 503)
        p->retry_after_s = 2;
    return false;
}

bool problem_memory(struct problem *p)
{
    return problem_set(p, 503, "out_of_memory", "The server is out of memory; try again later.");
}

bool problem_from(struct problem *p, const struct mt_err *err)
{
    switch (err->status) {
    case MT_EINVAL: return problem_set(p, 400, NULL, "%s", err->text);
    case MT_ELIMIT: return problem_set(p, 429, "rate_limit_exceeded", "%s", err->text);
    case MT_ECLOSED: return problem_set(p, 503, "unavailable", "%s", err->text);
    case MT_ETIMEOUT: return problem_set(p, 504, "timeout", "%s", err->text);
    case MT_ENOMEM: return problem_memory(p);
    default: return problem_set(p, 500, NULL, "%s", err->text);
    }
}

static const char *problem_type(const struct problem *p)
{
    if (p->type)
        return p->type;
    if (p->status == 429)
        return "rate_limit_error";
    return p->status < 500 ? "invalid_request_error" : "server_error";
}

void problem_print(const struct problem *p, struct buf *out)
{
    /* "s?" is null where there is none; a message may quote bytes of the client's that are cut in
     * mid-character */
    json_t *error =
        json_pack("{s:o, s:s, s:s?, s:s?}", "message", json_text(p->message, strlen(p->message)),
                  "type", problem_type(p), "param", p->param, "code", p->code);
    json_t *root = json_pack("{s:o}", "error", error);

    json_print(root, out);
}

void problem_reply(const struct problem *p, struct exchange *x)
{
    struct buf body;
    char seconds[16];

    buf_init(&body, 16 * MT_ERR_TEXT);
    problem_print(p, &body);
    buf_puts(&body, "\n");
    if (p->retry_after_s) {
        snprintf(seconds, sizeof seconds, "%d", p->retry_after_s);
        exchange_set_header(x, "Retry-After", seconds);
    }
    exchange_reply(x, p->status, "application/json", &body);
}
