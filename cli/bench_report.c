/* What was measured, as text and as JSON. */
#include <jansson.h>
#include <string.h>

#include "cli/bench.h"

#define MS 1e-6 /* a ns */

void bench_result_fail(struct bench_result *r, const char *what, const char *message)
{
    struct bench_error *e = NULL;

    r->failed++;
    for (uint32_t i = 0; i < r->n_errors && !e; i++)
        if (!strcmp(r->errors[i].what, what))
            e = &r->errors[i];
    if (!e && r->n_errors == BENCH_MAX_ERRORS) {
        e = &r->errors[BENCH_MAX_ERRORS - 1];
        snprintf(e->what, sizeof e->what, "other");
    }
    if (!e) {
        e = &r->errors[r->n_errors++];
        snprintf(e->what, sizeof e->what, "%s", what);
        snprintf(e->first, sizeof e->first, "%s", message);
    }
    e->count++;
}

static double per_second(const struct bench_result *r, uint64_t n)
{
    return r->seconds > 0 ? (double)n / r->seconds : 0;
}

static void print_load(const struct bench_config *c, const char *model, FILE *out)
{
    fprintf(out, "%s at %s, prompts of %lld tokens, answers of %lld%s, ", model, c->url,
            (long long)c->prompt_tokens, (long long)c->max_tokens,
            c->stream ? "" : ", not streamed");
    if (c->rate > 0)
        fprintf(out, "open loop: %g requests/s (%s), at most %lld in flight\n", c->rate,
                BENCH_ARRIVALS[c->arrivals], (long long)c->concurrency);
    else
        fprintf(out, "closed loop: %lld in flight\n", (long long)c->concurrency);
}

static void print_row(const char *name, const struct bench_hist *h, FILE *out)
{
    if (h->n)
        fprintf(out, "  %-20s %10.3f %10.3f %10.3f %10.3f %10.3f\n", name, bench_hist_mean(h) * MS,
                bench_hist_quantile(h, 0.5) * MS, bench_hist_quantile(h, 0.9) * MS,
                bench_hist_quantile(h, 0.99) * MS, (double)h->max * MS);
}

void bench_report_text(const struct bench_config *c, const char *model,
                       const struct bench_result *r, FILE *out)
{
    print_load(c, model, out);
    fprintf(out, "  requests   %llu ok, %llu failed, in %.3f s: %.2f/s\n",
            (unsigned long long)r->ok, (unsigned long long)r->failed, r->seconds,
            per_second(r, r->ok));
    if (c->rate > 0)
        fprintf(out, "  delayed    %llu found %lld in flight and waited\n",
                (unsigned long long)r->delayed, (long long)c->concurrency);
    fprintf(out, "  output     %.1f tokens/s (%llu tokens)\n", per_second(r, r->output_tokens),
            (unsigned long long)r->output_tokens);
    fprintf(out, "  input      %.1f tokens/s (%llu tokens, %llu of them cached)\n",
            per_second(r, r->input_tokens), (unsigned long long)r->input_tokens,
            (unsigned long long)r->cached_tokens);
    fprintf(out, "  this tool  %.2f of a core\n", r->seconds > 0 ? r->client_cpu / r->seconds : 0);
    fprintf(out, "  %-20s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p99", "max");
    print_row("first token", &r->ttft, out);
    print_row("between tokens", &r->gap, out);
    print_row("whole request", &r->whole, out);
    for (uint32_t i = 0; i < r->n_errors; i++)
        fprintf(out, "  failed     %llu: %s; the first: %s\n",
                (unsigned long long)r->errors[i].count, r->errors[i].what, r->errors[i].first);
}

static json_t *hist_json(const struct bench_hist *h)
{
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "count", (json_int_t)h->n, "mean",
                     bench_hist_mean(h) * MS, "p50", bench_hist_quantile(h, 0.5) * MS, "p90",
                     bench_hist_quantile(h, 0.9) * MS, "p99", bench_hist_quantile(h, 0.99) * MS,
                     "max", (double)h->max * MS);
}

static json_t *errors_json(const struct bench_result *r)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < r->n_errors; i++)
        if (json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "what", r->errors[i].what,
                                                  "count", (json_int_t)r->errors[i].count, "first",
                                                  r->errors[i].first))) {
            json_decref(list);
            return NULL;
        }
    return list;
}

int bench_report_json(const struct bench_config *c, const char *model, const struct bench_result *r,
                      FILE *out, struct mt_err *reterr)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:I, s:f, s:s?, s:b, s:I, s:I, s:f,"
        " s:I, s:I, s:I, s:o, s:f, s:f, s:I, s:f, s:I, s:I, s:f, s:f, s:o, s:o, s:o}",
        "model", model, "url", c->url, "concurrency", (json_int_t)c->concurrency, "rate", c->rate,
        "arrivals", c->rate > 0 ? BENCH_ARRIVALS[c->arrivals] : NULL, "stream", c->stream,
        "prompt_tokens", (json_int_t)c->prompt_tokens, "max_tokens", (json_int_t)c->max_tokens,
        "temperature", c->temperature, "ok", (json_int_t)r->ok, "failed", (json_int_t)r->failed,
        "delayed", (json_int_t)r->delayed, "errors", errors_json(r), "seconds", r->seconds,
        "requests_per_s", per_second(r, r->ok), "output_tokens", (json_int_t)r->output_tokens,
        "output_tokens_per_s", per_second(r, r->output_tokens), "input_tokens",
        (json_int_t)r->input_tokens, "cached_tokens", (json_int_t)r->cached_tokens,
        "input_tokens_per_s", per_second(r, r->input_tokens), "client_cpu_seconds", r->client_cpu,
        "first_token_ms", hist_json(&r->ttft), "between_tokens_ms", hist_json(&r->gap),
        "whole_request_ms", hist_json(&r->whole));
    int rc = root ? json_dumpf(root, out, JSON_REAL_PRECISION(9)) : -1;

    json_decref(root);
    if (rc)
        return mt_error(reterr, MT_ENOMEM, "out of memory, or the report cannot be written");
    fputc('\n', out);
    return 0;
}
