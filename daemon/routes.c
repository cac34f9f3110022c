#include "daemon/routes.h"

#include <string.h>
#include <strings.h>

#include "daemon/json.h"

#define MAX_REPLY ((size_t)1 << 30)

const struct http_route ROUTES[] = {
    {"GET", "/", routes_index, "this list"},
    {"POST", "/v1/completions", routes_completions,
     "completes prompts (OpenAI's API; plain or streamed)"},
    {"POST", "/v1/chat/completions", routes_chat,
     "answers a conversation (OpenAI's API; plain or streamed)"},
    {"GET", "/v1/models", routes_models, "the model that is served, as a list"},
    {"GET", "/v1/models/*", routes_model, "the model that is served, by its name"},
    {"POST", "/tokenize", routes_tokenize, "{\"prompt\": text} to token ids"},
    {"POST", "/detokenize", routes_detokenize, "{\"tokens\": [ids]} to text"},
    {"GET", "/version", routes_version, "the version of this server"},
    {"GET", "/healthz", routes_alive, "200 while the process lives"},
    {"GET", "/health", routes_alive, "the same, as others call it"},
    {"GET", "/readyz", routes_ready, "200 while requests are served, else 503 and why"},
    {"GET", "/metrics", routes_metrics, "Prometheus metrics"},
    {NULL, NULL, NULL, NULL},
};

void routes_refuse(struct exchange *x, int status, const char *why, void *user)
{
    struct problem p;

    (void)user;
    problem_set(&p, status, NULL, "%s", why);
    problem_reply(&p, x);
}

void routes_json(struct exchange *x, int status, json_t *root)
{
    struct buf body;

    buf_init(&body, MAX_REPLY);
    json_print(root, &body);
    buf_puts(&body, "\n");
    exchange_reply(x, status, "application/json", &body);
}

void routes_text(struct exchange *x, int status, const char *text)
{
    struct buf body;

    buf_init(&body, MAX_REPLY);
    buf_puts(&body, text);
    exchange_reply(x, status, "text/plain; charset=utf-8", &body);
}

void routes_refine(const struct exchange *x, struct problem *p)
{
    const char *type = exchange_header(x, "Content-Type");
    const char *encoding = exchange_header(x, "Content-Encoding");

    if (p->status != 400 || p->param)
        return;
    if (encoding && strcasecmp(encoding, "identity") != 0)
        problem_set(p, 415, NULL, "Unsupported Content-Encoding: expected none, but got '%.40s'.",
                    encoding);
    else if (type && strncasecmp(type, "application/json", 16) != 0 &&
             strncasecmp(type, "application/x-www-form-urlencoded", 33) != 0)
        problem_set(p, 415, NULL,
                    "Unsupported Content-Type: expected application/json, but got '%.80s'.", type);
}

bool routes_check_model(const struct routes *routes, const char *model, struct problem *p)
{
    if (!model || !strcmp(model, routes->model))
        return true;
    problem_set(p, 404, "model_not_found",
                "The model '%.200s' does not exist; this server serves '%s'.", model,
                routes->model);
    p->param = "model";
    return false;
}

json_t *routes_object(struct exchange *x, const struct routes *routes)
{
    struct problem p;
    const char *model = NULL;
    size_t len;
    const uint8_t *body = exchange_body(x, &len);
    json_t *root = params_object(body, len, (unsigned)routes->limits.json_depth, &p);

    if (!root) {
        routes_refine(x, &p);
    } else if (params_model(root, &model, &p) && routes_check_model(routes, model, &p)) {
        return root;
    }
    json_decref(root);
    problem_reply(&p, x);
    return NULL;
}
