/* What the server tells of itself. */
#include <string.h>

#include "api/version.h"
#include "daemon/json.h"
#include "daemon/routes.h"

#define MAX_TEXT ((size_t)4 << 20)

static json_t *model_json(const struct routes *routes)
{
    struct engine_status status;
    json_t *model;

    routes->backend.status(routes->backend.engine, &status);
    model = json_pack("{s:o, s:s, s:I, s:s}", "id", json_text(routes->model, strlen(routes->model)),
                      "object", "model", "created", (json_int_t)routes->started_s, "owned_by",
                      "moetuner");
    if (model && status.have_facts)
        json_object_set_new(model, "max_model_len", json_integer(status.facts.max_positions));
    return model;
}

void routes_models(struct exchange *x, void *user)
{
    routes_json(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(user)));
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether a percent-encoded text stands for `name`. */
static bool encodes(const char *text, const char *name)
{
    for (; *text; text++, name++) {
        char c = *text;

        if (c == '%') {
            int high = hex_digit(text[1]), low = high < 0 ? -1 : hex_digit(text[2]);

            if (low < 0)
                return false;
            c = (char)(high << 4 | low);
            text += 2;
        }
        if (!c || c != *name)
            return false;
    }
    return !*name;
}

void routes_model(struct exchange *x, void *user)
{
    const struct routes *routes = user;
    struct problem p;

    if (encodes(exchange_tail(x), routes->model)) {
        routes_json(x, 200, model_json(routes));
        return;
    }
    problem_set(&p, 404, "model_not_found",
                "The model '%.200s' does not exist; this server serves '%s'.", exchange_tail(x),
                routes->model);
    p.param = "model";
    problem_reply(&p, x);
}

void routes_version(struct exchange *x, void *user)
{
    (void)user;
    routes_json(x, 200, json_pack("{s:s}", "version", MT_VERSION));
}

void routes_alive(struct exchange *x, void *user)
{
    (void)user;
    routes_text(x, 200, "ok\n");
}

void routes_ready(struct exchange *x, void *user)
{
    static const char *const STATES[] = {
        [ENGINE_STARTING] = "starting", [ENGINE_READY] = "ready",
        [ENGINE_DOWN] = "down",         [ENGINE_LOST] = "lost",
        [ENGINE_DRAINING] = "draining", [ENGINE_STOPPED] = "stopped",
    };
    const struct routes *routes = user;
    struct engine_status status;
    struct buf body;

    routes->backend.status(routes->backend.engine, &status);
    if (status.state == ENGINE_READY) {
        routes_text(x, 200, "ready\n");
        return;
    }
    buf_init(&body, MAX_TEXT);
    buf_printf(&body, "%s%s%s\n", STATES[status.state], *status.text ? ": " : "", status.text);
    exchange_set_header(x, "Retry-After", "2");
    exchange_reply(x, 503, "text/plain; charset=utf-8", &body);
}

void routes_metrics(struct exchange *x, void *user)
{
    const struct routes *routes = user;
    struct buf body;

    buf_init(&body, MAX_TEXT);
    if (metrics_render(routes->metrics, routes->model, &body) && !body.status)
        body.status = MT_ENOMEM;
    exchange_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

void routes_index(struct exchange *x, void *user)
{
    const struct routes *routes = user;
    struct buf body;

    buf_init(&body, MAX_TEXT);
    buf_printf(&body, "moetuner %s serves %s\n\n", MT_VERSION, routes->model);
    for (const struct http_route *r = ROUTES; r->path; r++)
        buf_printf(&body, "%-5s %-22s %s\n", r->method, r->path, r->help);
    exchange_reply(x, 200, "text/plain; charset=utf-8", &body);
}
