#include "cli/bench_request.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/bench_fetch.h"
#include "daemon/json.h"

#define MAX_EVENT ((size_t)16 << 20) /* the first one repeats the prompt's ids */
#define MAX_REPLY ((size_t)64 << 20)

uint64_t bench_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- what comes back -------------------------------------------------------------------------- */

static void take_usage(struct bench_request *r, const json_t *usage)
{
    const json_t *details = json_object_get(usage, "prompt_tokens_details");

    if (!json_is_object(usage))
        return;
    r->usage_prompt = json_integer_value(json_object_get(usage, "prompt_tokens"));
    r->usage_completion = json_integer_value(json_object_get(usage, "completion_tokens"));
    r->usage_cached = json_integer_value(json_object_get(details, "cached_tokens"));
}

static int take_object(struct bench_request *r, const json_t *root, uint64_t now,
                       struct mt_err *reterr)
{
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *error = json_object_get(root, "error");
    const json_t *ids = json_object_get(choice, "token_ids");
    const char *message = json_string_value(json_object_get(error, "message"));
    size_t n = json_array_size(ids);

    if (error)
        return mt_error(reterr, MT_EPROTO, "an error in the answer: %.300s",
                        message ? message : "without a message");
    if (choice && !ids)
        return mt_error(reterr, MT_EPROTO,
                        "expected token_ids in each choice, as return_token_ids asks, found none");
    take_usage(r, json_object_get(root, "usage"));
    if (!n)
        return 0;
    if (!r->first)
        r->first = now;
    else
        bench_hist_add(&r->result->gap, (now - r->last) / n, n);
    r->last = now;
    r->tokens += n;
    return 0;
}

static int take_event(void *user, const char *data, size_t len, struct mt_err *reterr)
{
    struct bench_request *r = user;
    json_t *root;
    int rc;

    if (len == 6 && !memcmp(data, "[DONE]", 6)) {
        r->done = true;
        return 0;
    }
    rc = json_read((const uint8_t *)data, len, BENCH_JSON_DEPTH, &root, reterr);
    if (rc)
        return rc;
    rc = take_object(r, root, bench_now(), reterr);
    json_decref(root);
    return rc;
}

/* curl's callback; anything but n ends the transfer. */
static size_t take_bytes(char *bytes, size_t size, size_t n, void *user)
{
    struct bench_request *r = user;
    long status = 0;
    int rc;

    n *= size;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200 && r->config->stream)
        rc = bench_sse_feed(&r->sse, bytes, n, take_event, r, &r->trouble);
    else if ((rc = buf_append(&r->reply, bytes, n)))
        mt_error(&r->trouble, rc, "expected an answer of at most %zu bytes", r->reply.cap);
    if (rc)
        r->trouble.status = rc;
    return rc ? 0 : n;
}

/* --- life ------------------------------------------------------------------------------------- */

int bench_request_init(struct bench_request *r, const struct bench_config *c, const char *model,
                       const struct bench_prompts *prompts, struct mt_err *reterr)
{
    char url[2048];

    r->config = c;
    r->prompts = prompts;
    r->model = model;
    bench_sse_init(&r->sse, MAX_EVENT);
    buf_init(&r->reply, MAX_REPLY);
    r->easy = curl_easy_init();
    r->headers = curl_slist_append(NULL, "Content-Type: application/json");
    r->ids = calloc((size_t)c->prompt_tokens, sizeof *r->ids);
    if (!r->easy || !r->headers || !r->ids)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    snprintf(url, sizeof url, "%s/v1/completions", c->url);
    bench_fetch_prepare(r->easy, url, c->timeout);
    curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(r->easy, CURLOPT_ERRORBUFFER, r->detail);
    curl_easy_setopt(r->easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_PRIVATE, r);
    return 0;
}

void bench_request_done(struct bench_request *r)
{
    curl_easy_cleanup(r->easy);
    curl_slist_free_all(r->headers);
    bench_sse_done(&r->sse);
    buf_done(&r->reply);
    free(r->body);
    free(r->ids);
}

static json_t *body_json(struct bench_request *r, uint64_t number)
{
    const struct bench_config *c = r->config;
    json_t *ids = json_array(), *root;
    json_int_t seed = c->seed;

    seed += (json_int_t)number;
    bench_prompts_fill(r->prompts, c, c->distinct ? number % (uint64_t)c->distinct : number,
                       r->ids);
    for (int64_t i = 0; i < c->prompt_tokens; i++)
        json_array_append_new(ids, json_integer(r->ids[i]));
    ids = json_whole(ids, (size_t)c->prompt_tokens);
    root = json_pack("{s:s, s:o, s:I, s:f, s:I, s:b, s:b, s:b}", "model", r->model, "prompt", ids,
                     "max_tokens", (json_int_t)c->max_tokens, "temperature", c->temperature, "seed",
                     seed, "ignore_eos", 1, "return_token_ids", 1, "stream", c->stream);
    if (root && c->stream)
        json_object_set_new(root, "stream_options", json_pack("{s:b}", "include_usage", 1));
    return root;
}

int bench_request_begin(struct bench_request *r, uint64_t number, uint64_t asked,
                        struct bench_result *result, struct mt_err *reterr)
{
    json_t *body = body_json(r, number);

    free(r->body);
    r->body = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (!r->body)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, r->body);
    bench_sse_reset(&r->sse);
    buf_reset(&r->reply);
    r->result = result;
    r->asked = asked;
    r->first = r->last = r->tokens = 0;
    r->usage_prompt = r->usage_cached = r->usage_completion = -1;
    r->done = false;
    r->trouble.status = 0;
    *r->detail = 0;
    return 0;
}

/* --- the verdict ------------------------------------------------------------------------------ */

/* A whole answer that is no stream; it tells nothing of when tokens came. */
static int take_reply(struct bench_request *r)
{
    json_t *root;
    int rc = json_read(r->reply.data, r->reply.len, BENCH_JSON_DEPTH, &root, &r->trouble);

    if (rc)
        return rc;
    rc = take_object(r, root, bench_now(), &r->trouble);
    json_decref(root);
    r->done = true;
    return rc;
}

/* What is wrong with an answer of status 200; its text in r->trouble. */
static bool answer_wrong(struct bench_request *r)
{
    long long expected = (long long)r->config->max_tokens, found;

    if (!r->config->stream && take_reply(r))
        return true;
    found = (long long)r->tokens;
    if (!r->done)
        mt_error(&r->trouble, MT_EPROTO, "the stream ended without [DONE]");
    else if (r->usage_completion < 0)
        mt_error(&r->trouble, MT_EPROTO, "expected usage in the answer, found none");
    else if (found != expected || r->usage_completion != found)
        mt_error(&r->trouble, MT_EPROTO, "expected %lld tokens, found %lld, and usage says %lld",
                 expected, found, (long long)r->usage_completion);
    return r->trouble.status != 0;
}

void bench_request_end(struct bench_request *r, CURLcode code)
{
    struct bench_result *res = r->result;
    uint64_t now = bench_now();
    char what[16], message[300];
    long status = 0;

    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    if (!r->trouble.status && !code && status == 200 && !answer_wrong(r)) {
        res->ok++;
        res->output_tokens += r->tokens;
        res->input_tokens += (uint64_t)r->usage_prompt;
        res->cached_tokens += (uint64_t)r->usage_cached;
        if (r->config->stream)
            bench_hist_add(&res->ttft, r->first - r->asked, 1);
        bench_hist_add(&res->whole, now - r->asked, 1);
    } else if (r->trouble.status) {
        bench_result_fail(res, "answer", r->trouble.text);
    } else if (code) {
        bench_result_fail(res, "connection", *r->detail ? r->detail : curl_easy_strerror(code));
    } else {
        snprintf(what, sizeof what, "HTTP %ld", status % 1000);
        bench_fetch_message(&r->reply, message, sizeof message);
        bench_result_fail(res, what, message);
    }
}
