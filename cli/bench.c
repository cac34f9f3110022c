/* moetuner bench: load for a running server, and what it measured. */
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/bench.h"
#include "cli/bench_fetch.h"
#include "cli/bench_load.h"
#include "cli/command.h"

#define WARMUP_FROM ((uint64_t)1 << 40) /* its prompts are none that will be measured */

/* *ret is the caller's to free(). */
static int find_model(const struct bench_config *c, char **ret, struct mt_err *reterr)
{
    const char *name;
    json_t *reply;
    int rc = bench_fetch(c->url, "/v1/models", NULL, c->timeout, &reply, reterr);

    if (rc)
        return rc;
    name =
        json_string_value(json_object_get(json_array_get(json_object_get(reply, "data"), 0), "id"));
    if (!name)
        rc = mt_error(reterr, MT_EPROTO, "%s/v1/models: expected a model, found none", c->url);
    else if (!(*ret = strdup(name)))
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    json_decref(reply);
    return rc;
}

/* Failed warm-up requests are told like others: they would otherwise be missed. */
static int run_load(struct bench_load *l, const struct bench_config *c, int stop_fd,
                    struct bench_result *r, struct mt_err *reterr)
{
    struct bench_result *warm = calloc(1, sizeof *warm);
    int rc;

    if (!warm)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    rc = bench_load_run(l, WARMUP_FROM, (uint64_t)c->warmup, 0, stop_fd, false, warm, reterr);
    if (!rc && warm->failed)
        rc = mt_error(reterr, MT_EPROTO, "warm-up: %llu of %lld requests failed, the first: %s: %s",
                      (unsigned long long)warm->failed, (long long)c->warmup, warm->errors[0].what,
                      warm->errors[0].first);
    free(warm);
    return rc ? rc
              : bench_load_run(l, 0, (uint64_t)c->requests, c->rate, stop_fd, isatty(2), r, reterr);
}

static int measure(const struct bench_config *c, const char *model, int stop_fd,
                   struct bench_result *r, struct mt_err *reterr)
{
    struct bench_prompts prompts = {0};
    struct bench_load *l = NULL;
    int rc = bench_prompts_open(&prompts, c, reterr);

    if (!rc)
        rc = bench_load_open(c, model, &prompts, &l, reterr);
    if (!rc)
        rc = run_load(l, c, stop_fd, r, reterr);
    bench_load_close(l);
    bench_prompts_done(&prompts);
    return rc;
}

static int bench(const struct bench_config *c, int stop_fd, bool *ret_good, struct mt_err *reterr)
{
    struct bench_result *r = calloc(1, sizeof *r);
    char *model = c->model ? strdup(c->model) : NULL;
    int rc = 0;

    if (!r || (c->model && !model))
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    if (!rc && !model)
        rc = find_model(c, &model, reterr);
    if (!rc)
        rc = measure(c, model, stop_fd, r, reterr);
    if (!rc && c->json)
        rc = bench_report_json(c, model, r, stdout, reterr);
    else if (!rc)
        bench_report_text(c, model, r, stdout);
    if (!rc)
        *ret_good = !r->failed;
    free(model);
    free(r);
    return rc;
}

int command_bench(int argc, char **argv, int stop_fd)
{
    struct bench_config c;
    struct mt_err err;
    bool good = true;
    int rc = bench_config_read(argc, argv, &c, &err);

    if (!rc && c.help) {
        puts("Usage: moetuner bench [OPTION...]\n\n"
             "Loads a running server with completions and prints throughput and latencies. Exits "
             "with 0,\nwith 1 if requests failed, with 2 if it could not run.\n");
        option_help(BENCH_OPTIONS, stdout);
    } else if (!rc) {
        if (curl_global_init(CURL_GLOBAL_DEFAULT))
            rc = mt_error(&err, MT_EINTERNAL, "curl: cannot start");
        else
            rc = bench(&c, stop_fd, &good, &err);
        curl_global_cleanup();
    }
    option_done(BENCH_OPTIONS, &c);
    if (rc)
        fprintf(stderr, "moetuner bench: %s\n", err.text);
    return rc ? 2 : good ? 0 : 1;
}
