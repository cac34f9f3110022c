/* The API on a real socket, in front of the fake backend, and what its tests ask of it. One at a
 * time. */
#ifndef MT_TESTS_API_SITE_H
#define MT_TESTS_API_SITE_H

#include <jansson.h>

#include "daemon/http.h"
#include "daemon/routes.h"
#include "fake_backend.h"
#include "web.h"

struct site {
    struct fake_backend *engine;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct metrics *metrics;
    struct routes routes;
    struct http *http;
    int port;
};

extern struct site site; /* between set-up and tear-down, which cmocka calls */

int site_set_up(void **state);
int site_tear_down(void **state);
#define SITE_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)

/* A call that must have this status and a JSON body, which is the caller's. */
json_t *site_call(const char *path, const char *body, int status);
/* A call that must be refused in OpenAI's shape; param and code NULL: null. */
void site_check_error(const char *path, const char *body, int status, const char *param,
                      const char *code, const char *message);
/* The events of a stream, as an array; checks its framing. */
json_t *site_stream(const char *path, const char *body);
json_t *site_events(struct web_reply *r);
/* All text of a field of one choice of a stream: "text", "delta.content". The caller's to free. */
char *site_joined(const json_t *events, const char *field, int index);
/* What choice c says in n tokens; an unfinished character is not shown. In a static buffer. */
const char *site_said(unsigned c, unsigned n);

/* A value by its path: "choices.0.text". */
const json_t *json_at(const json_t *value, const char *path);
const char *json_text_at(const json_t *root, const char *path);
long long json_number_at(const json_t *root, const char *path);

#endif
