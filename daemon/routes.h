/* What is served at which path: JSON in, JSON out. jansson stays in here, the params and the
 * replies; libmicrohttpd stays out. Handlers run on the server's threads and never wait for the
 * engine. */
#ifndef MT_DAEMON_ROUTES_H
#define MT_DAEMON_ROUTES_H

#include "daemon/chat.h"
#include "daemon/engine.h"
#include "daemon/http.h"
#include "daemon/metrics.h"
#include "daemon/params.h"
#include "daemon/tokenizer.h"

/* The engine as the routes see it. */
struct backend {
    void *engine;
    int (*submit)(void *engine, struct request *r, struct mt_err *reterr);
    void (*cancel)(void *engine, struct request *r);
    void (*status)(void *engine, struct engine_status *ret);
};

/* Everything is borrowed, and constant while the server runs. */
struct routes {
    struct backend backend;
    const struct tokenizer *tokenizer; /* NULL: prompts and answers are token ids only */
    const struct chat_template *chat;  /* NULL: none */
    struct metrics *metrics;
    const char *model;   /* its name in the API */
    int64_t started_s;   /* CLOCK_REALTIME */
    int64_t deadline_ms; /* of a request; 0: none */
    struct limits limits;
};

/* For http_options; user is a struct routes. */
extern const struct http_route ROUTES[];
void routes_refuse(struct exchange *x, int status, const char *why, void *user);

/* Handlers, by file. */
void routes_completions(struct exchange *x, void *user); /* routes_generate.c */
void routes_chat(struct exchange *x, void *user);
void routes_tokenize(struct exchange *x, void *user); /* routes_tokens.c */
void routes_detokenize(struct exchange *x, void *user);
void routes_models(struct exchange *x, void *user); /* routes_info.c */
void routes_model(struct exchange *x, void *user);
void routes_version(struct exchange *x, void *user);
void routes_alive(struct exchange *x, void *user);
void routes_ready(struct exchange *x, void *user);
void routes_metrics(struct exchange *x, void *user);
void routes_index(struct exchange *x, void *user);

/* Shared. */
void routes_json(struct exchange *x, int status, json_t *root); /* takes root */
void routes_text(struct exchange *x, int status, const char *text);
/* Parses the body as an object, checks its "model", and answers the problem itself where there is
 * one (NULL). */
json_t *routes_object(struct exchange *x, const struct routes *routes);
/* A body that is no JSON and does not claim to be: 415 rather than 400. */
void routes_refine(const struct exchange *x, struct problem *p);
bool routes_check_model(const struct routes *routes, const char *model, struct problem *p);

#endif
