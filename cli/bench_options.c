#include <stddef.h>
#include <string.h>

#include "cli/bench.h"

const char *const BENCH_ARRIVALS[] = {"poisson", "constant", NULL};

#define AT(field) offsetof(struct bench_config, field)
#define INT(name, field, value, min, max, section, help) \
    { \
        name, OPTION_INT, AT(field), value, min, max, NULL, "N", section, help \
    }
#define S_SERVER "Server"
#define S_LOAD "Load"
#define S_REQUEST "Each request"
#define S_OUTPUT "Output"

const struct option BENCH_OPTIONS[] = {
    {"url", OPTION_TEXT, AT(url), "http://127.0.0.1:8000", 0, 0, NULL, "URL", S_SERVER,
     "The server's address, without /v1."},
    {"model", OPTION_TEXT, AT(model), NULL, 0, 0, NULL, "NAME", S_SERVER,
     "The model to ask for. Default: the first of /v1/models."},
    {"timeout", OPTION_DURATION, AT(timeout), "10min", 1, 7 * 86400e3, NULL, "TIME", S_SERVER,
     "A request that takes longer has failed."},

    INT("concurrency", concurrency, "0", 0, BENCH_MAX_CONCURRENCY, S_LOAD,
        "Requests in flight: exactly as many, each followed by the next; with --rate, at most. 0 "
        "means 1, or 256 with --rate."),
    INT("requests", requests, "64", 1, 1e9, S_LOAD, "Requests to make and measure."),
    INT("warmup", warmup, "4", 0, 1e6, S_LOAD,
        "Requests before those, at the same concurrency, which are not measured."),
    {"rate", OPTION_REAL, AT(rate), "0", 0, 1e6, NULL, "R", S_LOAD,
     "Open loop: R requests arrive in a second, whatever becomes of earlier ones; latencies count "
     "from arrival, also of a request that waits because --concurrency are in flight. 0: closed "
     "loop."},
    {"arrivals", OPTION_CHOICE, AT(arrivals), "poisson", 0, 0, BENCH_ARRIVALS, "HOW", S_LOAD,
     "With --rate: poisson (independent arrivals) or constant (even spaces)."},

    INT("prompt-tokens", prompt_tokens, "64", 1, BENCH_MAX_TOKENS, S_REQUEST,
        "Tokens of each prompt, which is sent as token ids."),
    INT("max-tokens", max_tokens, "64", 1, BENCH_MAX_TOKENS, S_REQUEST,
        "Tokens to generate; ignore_eos makes them all."),
    {"prompts", OPTION_TEXT, AT(prompts), NULL, 0, 0, NULL, "FILE", S_REQUEST,
     "Text to cut prompts from: JSON, a list of strings or an object of such lists. The server "
     "tokenises it once. Default: random token ids."},
    INT("vocab", vocab, "1000", 1, 1e9, S_REQUEST, "Without --prompts: ids are below N."),
    INT("distinct", distinct, "0", 0, 1e9, S_REQUEST,
        "Different prompts, used in turn; 0: each request has its own."),
    INT("seed", seed, "0", 0, 1e15, S_REQUEST, "Of prompts, arrivals and sampling."),
    {"temperature", OPTION_REAL, AT(temperature), "0", 0, 2, NULL, "T", S_REQUEST,
     "0 samples the most likely token."},
    {"stream", OPTION_FLAG, AT(stream), "true", 0, 0, NULL, NULL, S_REQUEST,
     "Whether answers come as events; without, only whole requests are timed (--no-stream)."},

    {"json", OPTION_FLAG, AT(json), "false", 0, 0, NULL, NULL, S_OUTPUT,
     "One JSON object instead of text."},
    {"help", OPTION_FLAG, AT(help), "false", 0, 0, NULL, NULL, S_OUTPUT, "Prints this list."},
    {0},
};

static int check(int argc, char *const *argv, int next, struct bench_config *c,
                 struct mt_err *reterr)
{
    size_t len;

    if (next < argc)
        return mt_error(reterr, MT_EINVAL, "expected options only, found the word %.100s",
                        argv[next]);
    if (strncmp(c->url, "http://", 7) != 0 && strncmp(c->url, "https://", 8) != 0)
        return mt_error(reterr, MT_EINVAL,
                        "option url: expected http://HOST:PORT or https://..., found %.200s",
                        c->url);
    for (len = strlen(c->url); len && c->url[len - 1] == '/'; len--)
        c->url[len - 1] = 0;
    if (!c->concurrency)
        c->concurrency = c->rate > 0 ? BENCH_OPEN_CONCURRENCY : 1;
    return 0;
}

int bench_config_read(int argc, char *const *argv, struct bench_config *c, struct mt_err *reterr)
{
    int next, rc = option_defaults(BENCH_OPTIONS, c, reterr);

    if (rc)
        return rc;
    rc = option_parse_args(BENCH_OPTIONS, c, argc, argv, &next, reterr);
    if (!rc && !c->help)
        rc = check(argc, argv, next, c, reterr);
    return rc;
}
