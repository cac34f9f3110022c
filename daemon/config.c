#include "daemon/config.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "api/version.h"
#include "api/wire.h"
#include "daemon/request.h"

#define MAX_FILE (1u << 20)
#define DAY_MS 86400000.0

const char *const CONFIG_NUMERICS[] = {"exact", "fast", NULL};
static const char *const LOG_LEVELS[] = {"error", "warn", "info", "debug", NULL};

/* Rows are written short: the field's name, its type, default, bounds, the value's name in help,
 * and the help itself. */
#define ROW(name, type, field, value, min, max, choices, arg, section, help) \
    { \
        name, type, offsetof(struct config, field), value, min, max, choices, arg, section, help \
    }
#define TEXT(name, field, value, arg, section, help) \
    ROW(name, OPTION_TEXT, field, value, 0, 0, NULL, arg, section, help)
#define INT(name, field, value, min, max, section, help) \
    ROW(name, OPTION_INT, field, value, min, max, NULL, "N", section, help)
#define SIZE(name, field, value, min, max, section, help) \
    ROW(name, OPTION_SIZE, field, value, min, max, NULL, "BYTES", section, help)
#define TIME(name, field, value, min, section, help) \
    ROW(name, OPTION_DURATION, field, value, min, 365 * DAY_MS, NULL, "TIME", section, help)
#define CHOICE(name, field, value, choices, section, help) \
    ROW(name, OPTION_CHOICE, field, value, 0, 0, choices, NULL, section, help)
#define FLAG(name, field, section, help) \
    ROW(name, OPTION_FLAG, field, "false", 0, 0, NULL, NULL, section, help)

#define S_MODEL "Model"
#define S_LISTEN "Address"
#define S_WORKER "Worker job"
#define S_QUEUE "Queue and deadlines"
#define S_HTTP "Limits of the HTTP server"
#define S_CALL "Limits of one call"
#define S_OTHER "Other"

static const struct option OPTIONS[] = {
    TEXT(
        "model", model, NULL, "DIR", S_MODEL,
        "A Hugging Face directory: config.json, safetensors, tokenizer.json. Required, except with "
        "--weights and --config."),
    TEXT("served-model-name", served_name, NULL, "NAME", S_MODEL,
         "The model's name in the API. Default: the last part of the directory's name."),
    TEXT("weights", weights, NULL, "dummy:SEED", S_MODEL,
         "Random weights, made in memory from --config, instead of the model's; for benchmarks."),
    TEXT("config", model_config, NULL, "FILE", S_MODEL, "The config.json for --weights."),

    TEXT("host", host, "127.0.0.1", "HOST", S_LISTEN,
         "The address to listen on: a name or a number. The API has no authentication: listen "
         "beyond "
         "this machine behind a proxy only."),
    INT("port", port, "8000", 0, 65535, S_LISTEN, "The TCP port; 0 takes a free one."),
    TEXT("unix", unix_path, NULL, "PATH", S_LISTEN, "Listen on this Unix socket instead."),

    INT("ranks", ranks, "2", 1, WIRE_MAX_RANKS, S_WORKER,
        "Worker processes, over which the experts are spread."),
    INT("threads", threads, "0", 0, 1024, S_WORKER,
        "Threads of each rank; 0 shares the cores out."),
    CHOICE(
        "numerics", numerics, "exact", CONFIG_NUMERICS, S_WORKER,
        "exact: the same answer to the bit, however the work is cut and placed. fast: bfloat16."),
    TEXT("isa", isa, NULL, "NAME", S_WORKER,
         "The instruction set of the kernels: avx512, avx2 or portable. Default: the best there "
         "is."),
    TEXT("placement", placement, NULL, "FILE", S_WORKER,
         "Which ranks hold which expert. Default: contiguous ranges."),
    SIZE("kv-memory", kv_memory, "0", 0, 1e15, S_WORKER,
         "Memory of each rank for the keys and values of running sequences; 0 is the worker's "
         "default."),
    INT("step-tokens", step_tokens, "512", 1, WIRE_MAX_STEP_TOKENS, S_WORKER,
        "The most tokens that a rank takes in one step; longer prompts are cut into chunks."),
    INT("max-seqs", max_seqs, "64", 1, WIRE_MAX_SEQS, S_WORKER,
        "The most sequences that run on a rank at once."),
    INT("spare-slots", spare_slots, "0", 0, WIRE_MAX_EXPERTS, S_WORKER,
        "Expert slots of each rank and layer beyond what the placement needs."),
    TEXT("worker", worker, NULL, "FILE", S_WORKER,
         "The worker program. Default: moetuner-worker beside this one."),
    TEXT("mpirun", mpirun, NULL, "FILE", S_WORKER,
         "The program that starts the ranks. Default: mpirun from PATH."),
    TIME("start-deadline", start_deadline, "10min", 1000, S_WORKER,
         "From the launch of the job to its readiness."),
    TIME("silence-deadline", silence_deadline, "2s", 0, S_WORKER,
         "A rank that is silent for longer is taken for dead; 0: never."),
    TIME("step-deadline", step_deadline, "60s", 0, S_WORKER,
         "A step in which no rank finishes a layer for longer is taken for stuck; 0: never."),
    TIME("relaunch-min", relaunch_min, "500ms", 1, S_WORKER,
         "A job that dies is launched again at once, and after this pause if it dies again without "
         "having done any work; the pause doubles each time."),
    TIME("relaunch-max", relaunch_max, "30s", 1, S_WORKER, "The longest such pause."),
    TIME("recovery-deadline", recovery_deadline, "60s", 0, S_WORKER,
         "While a job is launched again, requests wait, also those that ran. When it has been down "
         "for "
         "this long they are answered 503, as are new ones until it is back."),
    INT("max-request-deaths", max_request_deaths, "5", 1, 1e6, S_WORKER,
        "A request is given up when this many jobs in a row died while they worked on it, without "
        "a "
        "token from it in between."),

    INT("max-queued-requests", max_queued_requests, "1024", 1, 1e6, S_QUEUE,
        "Requests that wait for their turn; beyond, calls are answered 429."),
    INT("max-queued-tokens", max_queued_tokens, "1048576", 1, 1e12, S_QUEUE,
        "Prompt tokens that wait for their turn; beyond, calls are answered 429."),
    TIME("priority-wait", priority_wait, "10s", 0, S_QUEUE,
         "One level of a request's priority (0 is ordinary, lower goes first) is worth as much as "
         "having waited for this long."),
    TIME("request-deadline", request_deadline, "0", 0, S_QUEUE,
         "A request that is not done after this time ends with an error; 0: none."),
    TIME("drain-deadline", drain_deadline, "30s", 0, S_QUEUE,
         "After SIGTERM, running requests have this long to finish."),

    INT("http-threads", http_threads, "4", 1, 64, S_HTTP,
        "Server threads; they parse and tokenise."),
    INT("max-connections", max_connections, "1024", 64, 100000, S_HTTP,
        "Connections at once; further ones wait to be accepted."),
    INT("max-connections-per-client", max_client_connections, "0", 0, 100000, S_HTTP,
        "Connections of one address (of IPv6, of one /64 network); further ones are answered 429. "
        "0: three quarters of --max-connections, and no limit for loopback addresses, "
        "behind which there may be a proxy. Connections of a Unix socket are not counted."),
    SIZE("max-body", max_body, "8MiB", 1024, 1 << 30, S_HTTP,
         "The largest request body; beyond: 413."),
    SIZE("max-header", max_header, "32KiB", 4096, 1 << 20, S_HTTP,
         "All headers of a request; beyond: 431."),
    SIZE("max-uri", max_uri, "2KiB", 64, 1 << 16, S_HTTP, "The longest request path; beyond: 414."),
    TIME("receive-deadline", receive_deadline, "60s", 100, S_HTTP,
         "A connection has this long, from its start or its last answer, to deliver its next "
         "request."),
    TIME("stall-deadline", stall_deadline, "120s", 1000, S_HTTP,
         "A client that takes nothing of its answer for this long is cut off."),
    TIME("stream-ping", stream_ping, "5s", 0, S_HTTP,
         "A stream that has been silent for this long gets a comment, which keeps proxies from "
         "giving it up and finds out clients that have gone without a word; 0: never."),

    INT("max-prompts", max_prompts, "256", 1, 1e6, S_CALL, "Prompts in a list."),
    INT("max-choices", max_choices, "32", 1, REQUEST_MAX_CHOICES, S_CALL, "The largest n."),
    INT("max-sequences", max_sequences, "1024", 1, 1e6, S_CALL, "Prompts times n."),
    INT("max-stops", max_stops, "16", 1, REQUEST_MAX_STOPS - REQUEST_TEMPLATE_STOPS, S_CALL,
        "Stop strings."),
    INT("max-stop-bytes", max_stop_bytes, "256", 1, REQUEST_MAX_STOP_BYTES, S_CALL,
        "Bytes of a stop string."),
    INT("max-stop-tokens", max_stop_tokens, "12", 0,
        REQUEST_MAX_STOP_TOKENS - REQUEST_TEMPLATE_STOPS, S_CALL, "Tokens in stop_token_ids."),
    INT("max-logprobs", max_logprobs, "20", 0, WIRE_MAX_TOP_LOGPROBS, S_CALL,
        "The largest logprobs and top_logprobs."),
    INT("max-messages", max_messages, "4096", 1, 1e6, S_CALL, "Messages of a chat."),
    INT("max-json-depth", max_json_depth, "32", 4, 1000, S_CALL, "Levels of nested JSON."),

    TEXT(
        "config-file", config_file, NULL, "FILE", S_OTHER,
        "Options from a file, one \"name = value\" a line, without quotes; a line that begins with "
        "# is a comment. Flags win over it."),
    CHOICE("log-level", log_level, "info", LOG_LEVELS, S_OTHER,
           "How much is logged, on standard error."),
    FLAG("help", help, S_OTHER, "Print this text."),
    FLAG("version", version, S_OTHER, "Print the version."),
    FLAG("manual", manual, S_OTHER, "Print the manual page, moetunerd(8)."),
    {0},
};

static int read_flags(int argc, char *const *argv, struct config *config, struct mt_err *reterr)
{
    int next, status = option_parse_args(OPTIONS, config, argc, argv, &next, reterr);

    if (status)
        return status;
    if (next < argc)
        return mt_error(reterr, MT_EINVAL, "expected options only, found the word %s", argv[next]);
    return 0;
}

static int read_file(const char *path, struct config *config, struct mt_err *reterr)
{
    char *bytes;
    size_t len;
    int status = file_read(path, MAX_FILE, &bytes, &len, reterr);

    if (status)
        return status;
    status = option_parse_file(OPTIONS, config, bytes, len, path, reterr);
    free(bytes);
    return status;
}

/* The model's name: the last part of the directory's, whatever slashes follow it. */
static int set_name(struct config *config, struct mt_err *reterr)
{
    const char *dir = config->model ? config->model : "dummy";
    size_t end = strlen(dir), start;

    if (config->served_name && *config->served_name)
        return 0;
    while (end > 1 && dir[end - 1] == '/')
        end--;
    for (start = end; start && dir[start - 1] != '/';)
        start--;
    free(config->served_name);
    config->served_name =
        start < end && dir[start] != '.' ? strndup(dir + start, end - start) : strdup("model");
    return config->served_name ? 0 : mt_error(reterr, MT_ENOMEM, "out of memory");
}

static int check(struct config *config, struct mt_err *reterr)
{
    if (config->help || config->version || config->manual)
        return 0;
    if (!config->model && !config->weights)
        return mt_error(reterr, MT_EINVAL,
                        "option model: expected a directory (--model DIR), found none");
    if (config->weights && !config->model_config)
        return mt_error(reterr, MT_EINVAL, "option weights: it needs --config FILE");
    if (config->relaunch_max < config->relaunch_min)
        return mt_error(reterr, MT_EINVAL, "option relaunch-max: expected at least relaunch-min");
    return set_name(config, reterr);
}

int config_read(int argc, char *const *argv, struct config *config, struct mt_err *reterr)
{
    struct config c;
    char *path;
    int status = option_defaults(OPTIONS, &c, reterr);

    if (status)
        return status;
    status = read_flags(argc, argv, &c, reterr);
    if (!status && c.config_file) {
        /* the file goes below the flags, which are read a second time on top of it */
        path = strdup(c.config_file);
        status = path ? read_file(path, &c, reterr) : mt_error(reterr, MT_ENOMEM, "out of memory");
        free(path);
        if (!status)
            status = read_flags(argc, argv, &c, reterr);
    }
    if (!status)
        status = check(&c, reterr);
    if (status) {
        option_done(OPTIONS, &c);
        return status;
    }
    *config = c;
    return 0;
}

void config_done(struct config *config)
{
    option_done(OPTIONS, config);
}

void config_help(FILE *out)
{
    fputs("Usage: moetunerd --model DIR [OPTION]...\n"
          "Serves a Mixture-of-Experts model over HTTP from expert-parallel worker processes.\n"
          "TIME is 500ms, 2s, 5min, 1h or seconds; BYTES is 64KiB, 8MiB, 1GiB or bytes.\n\n",
          out);
    option_help(OPTIONS, out);
}

void config_manual(FILE *out)
{
    fputs(".TH MOETUNERD 8 \"\" \"moetuner " MT_VERSION "\"\n"
          ".SH NAME\n"
          "moetunerd \\- serve a Mixture-of-Experts model over HTTP\n"
          ".SH SYNOPSIS\n"
          ".B moetunerd \\-\\-model\n"
          ".I DIR\n"
          "[OPTION]...\n"
          ".SH DESCRIPTION\n"
          "Serves a model from a Hugging Face directory by OpenAI's REST API, from worker "
          "processes that it\n"
          "starts under mpirun and that share the experts out between them. It runs in the "
          "foreground and\n"
          "logs to standard error, one line an event. When it is ready, one line on standard "
          "output tells\n"
          "the address.\n",
          out);
    option_manual(OPTIONS, out);
    fputs(".SH SIGNALS\n"
          ".TP\n.B SIGTERM\n"
          "Drain: /readyz answers 503, new calls are refused, running ones have "
          "\\-\\-drain\\-deadline to\n"
          "finish. A second one stops at once.\n"
          ".TP\n.B SIGINT\n"
          "Stop at once.\n"
          ".SH EXIT STATUS\n"
          "0 after a signal, 1 if it cannot start, 2 on a wrong option.\n",
          out);
}
