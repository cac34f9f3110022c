/* moetunerd: wires the parts together, and lives from start to signal.
 *
 * The main thread does nothing but wait: for the engine at the start, for a signal, for the end of
 * a drain. Signals are blocked in every thread and taken by sigtimedwait here, so nothing runs in a
 * handler. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "api/log.h"
#include "api/version.h"
#include "daemon/chat.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/http.h"
#include "daemon/metrics.h"
#include "daemon/routes.h"
#include "daemon/tokenizer.h"

#define START_POLL_MS 100
#define DRAIN_POLL_MS 50
#define SPARE_DESCRIPTORS 64 /* for files, pipes and the server's threads; and 2 a rank */
#define FEWEST_CONNECTIONS 16
#define FLUSH_MS 300 /* for the last answers to leave, after the engine's end */

struct daemon {
    struct config config;
    struct metrics *metrics;
    struct tokenizer *tokenizer;
    struct chat_template *chat;
    struct plan plan;
    bool have_plan;
    struct engine *engine;
    struct http *http;
    struct routes routes;
    int listen_fd; /* until the server owns it; -1 */
    int port;
    bool bound_unix;
};

/* --- what the parts report --- */

static void log_engine(void *user, int level, const char *event, const char *fields)
{
    (void)user;
    log_event((enum log_level)level, event, "%s", fields);
}

/* Probes and scrapes that go well are no news. */
static bool is_probe(const struct http_access *a)
{
    static const char *const PROBES[] = {"/healthz", "/health", "/readyz", "/metrics"};

    for (size_t i = 0; i < sizeof PROBES / sizeof *PROBES; i++)
        if (!strcmp(a->path, PROBES[i]))
            return a->status == 200;
    return false;
}

static void log_access(const struct http_access *a, void *user)
{
    char path[256];

    (void)user;
    log_event(is_probe(a) ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "http",
              "id=%s method=%s path=%s status=%d bytes=%" PRIu64 " ms=%.1f remote=%s%s%s%s", a->id,
              a->method, log_quote(path, sizeof path, a->path), a->status, a->bytes,
              (double)a->us / 1000, a->remote, a->cut ? " cut=yes" : "", *a->note ? " " : "",
              a->note);
}

static void count_http(enum http_count what, int64_t change, void *user)
{
    struct routes *routes = user;

    switch (what) {
    case HTTP_CONNECTIONS: metrics_move(routes->metrics, METRIC_CONNECTIONS, change); break;
    case HTTP_REQUESTS: metrics_add(routes->metrics, METRIC_HTTP_REQUESTS, 1); break;
    case HTTP_REFUSED: metrics_add(routes->metrics, METRIC_HTTP_REFUSED, 1); break;
    }
}

/* --- the engine behind the routes --- */

static int submit(void *engine, struct request *r, struct mt_err *reterr)
{
    return engine_submit(engine, r, reterr);
}

static void cancel(void *engine, struct request *r)
{
    engine_cancel(engine, r);
}

static void status_of(void *engine, struct engine_status *ret)
{
    engine_status(engine, ret);
}

/* --- start --- */

static int load_texts(struct daemon *d, struct mt_err *reterr)
{
    char path[4096];
    struct stat st;
    int status;

    if (!d->config.model)
        return 0; /* dummy weights: token ids only */
    if (stat(d->config.model, &st) || !S_ISDIR(st.st_mode))
        return mt_error(reterr, MT_ENOTFOUND,
                        "model %s: expected a directory of this machine with config.json, "
                        "safetensors and tokenizer.json (nothing is downloaded)",
                        d->config.model);
    snprintf(path, sizeof path, "%s/tokenizer.json", d->config.model);
    status = tokenizer_load(path, &d->tokenizer, reterr);
    if (status)
        return status;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", d->config.model);
    return chat_load(path, &d->chat, reterr);
}

static int load_plan(struct daemon *d, struct mt_err *reterr)
{
    int status;

    if (!d->config.placement)
        return 0;
    status = plan_read(d->config.placement, &d->plan, reterr);
    d->have_plan = !status;
    return status;
}

static int open_socket(struct daemon *d, struct mt_err *reterr)
{
    int status;

    if (!d->config.unix_path)
        return http_listen_tcp(d->config.host, (int)d->config.port, &d->listen_fd, &d->port,
                               reterr);
    status = http_listen_unix(d->config.unix_path, &d->listen_fd, reterr);
    d->bound_unix = !status;
    return status;
}

static int start_engine(struct daemon *d, struct mt_err *reterr)
{
    const struct config *c = &d->config;
    const struct engine_options options = {
        .job = {.worker = c->worker,
                .mpirun = c->mpirun,
                .model = c->model,
                .config = c->model_config,
                .weights = c->weights,
                .backend = "cpu",
                .isa = c->isa,
                .numerics = CONFIG_NUMERICS[c->numerics],
                .ranks = (uint32_t)c->ranks,
                .threads = (uint32_t)c->threads,
                .spare_slots = (uint32_t)c->spare_slots,
                .step_tokens = (uint32_t)c->step_tokens,
                .max_seqs = (uint32_t)c->max_seqs,
                .kv_bytes = c->kv_memory,
                .start_ms = c->start_deadline,
                .silence_ms = c->silence_deadline,
                .step_ms = c->step_deadline,
                .plan = d->have_plan ? &d->plan : NULL},
        .max_queued_requests = (uint32_t)c->max_queued_requests,
        .max_queued_tokens = c->max_queued_tokens,
        .relaunch_min_ms = c->relaunch_min,
        .relaunch_max_ms = c->relaunch_max,
        .recovery_ms = c->recovery_deadline,
        .max_deaths = (uint32_t)c->max_request_deaths,
        .priority_ms = c->priority_wait,
        .tokenizer = d->tokenizer,
        .metrics = d->metrics,
        .log = log_engine,
    };

    return engine_start(&options, &d->engine, reterr);
}

static void set_routes(struct daemon *d)
{
    const struct config *c = &d->config;

    d->routes = (struct routes){
        .backend = {d->engine, submit, cancel, status_of},
        .tokenizer = d->tokenizer,
        .chat = d->chat,
        .metrics = d->metrics,
        .model = c->served_name,
        .started_s = time(NULL),
        .deadline_ms = c->request_deadline,
        .limits = {.prompts = c->max_prompts,
                   .choices = c->max_choices,
                   .sequences = c->max_sequences,
                   .stops = c->max_stops,
                   .stop_bytes = c->max_stop_bytes,
                   .stop_tokens = c->max_stop_tokens,
                   .logprobs = c->max_logprobs,
                   .messages = c->max_messages,
                   .json_depth = c->max_json_depth},
    };
}

static int start_http(struct daemon *d, struct mt_err *reterr)
{
    const struct config *c = &d->config;
    const struct http_options options = {
        .threads = (uint32_t)c->http_threads,
        .max_connections = (uint32_t)c->max_connections,
        .max_client_connections = (uint32_t)c->max_client_connections,
        .max_uri = (size_t)c->max_uri,
        .max_header = (size_t)c->max_header,
        .max_body = (size_t)c->max_body,
        .receive_ms = c->receive_deadline,
        .stall_ms = c->stall_deadline,
        .ping_ms = c->stream_ping,
        .routes = ROUTES,
        .user = &d->routes,
        .refuse = routes_refuse,
        .log = log_access,
        .count = count_http,
    };
    int status;

    set_routes(d);
    status = http_start(&options, d->listen_fd, &d->http, reterr);
    if (!status)
        d->listen_fd = -1;
    return status;
}

/* Connections need descriptors; the soft limit is often 1024. Where the hard limit allows fewer,
 * there are fewer connections, so that the worker job can always be launched again. */
static int share_descriptors(struct config *c, struct mt_err *reterr)
{
    const int64_t spare = SPARE_DESCRIPTORS + 2 * c->ranks, want = c->max_connections + spare;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return mt_error(reterr, MT_EIO, "getrlimit: %s", strerror(errno));
    if (limit.rlim_cur >= (rlim_t)want)
        return 0;
    limit.rlim_cur = (rlim_t)want < limit.rlim_max ? (rlim_t)want : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        return mt_error(reterr, MT_EIO, "setrlimit: %s", strerror(errno));
    if (limit.rlim_cur >= (rlim_t)want)
        return 0;
    if ((int64_t)limit.rlim_cur < spare + FEWEST_CONNECTIONS)
        return mt_error(reterr, MT_ELIMIT,
                        "this process may open %" PRIu64 " files (ulimit -n), expected at least "
                        "%" PRId64,
                        (uint64_t)limit.rlim_cur, spare + FEWEST_CONNECTIONS);
    log_event(LOG_LEVEL_WARN, "fewer_connections",
              "max_connections=%" PRId64 " allowed=%" PRId64 " open_files=%" PRIu64,
              c->max_connections, (int64_t)limit.rlim_cur - spare, (uint64_t)limit.rlim_cur);
    c->max_connections = (int64_t)limit.rlim_cur - spare;
    return 0;
}

/* The socket comes before the engine, so that a port in use is found out before any worker starts.
 */
static int start(struct daemon *d, struct mt_err *reterr)
{
    int status = share_descriptors(&d->config, reterr);

    if (status)
        return status;
    d->metrics = metrics_new();
    if (!d->metrics)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    status = load_texts(d, reterr);
    if (!status)
        status = load_plan(d, reterr);
    if (!status)
        status = open_socket(d, reterr);
    if (!status)
        status = start_engine(d, reterr);
    if (!status)
        status = start_http(d, reterr);
    return status;
}

/* --- life --- */

/* The next of our signals within ms (-1: for ever); 0: none. */
static int next_signal(const sigset_t *signals, int64_t ms)
{
    struct timespec wait = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    int signal;

    do {
        signal = ms < 0 ? sigwaitinfo(signals, NULL) : sigtimedwait(signals, NULL, &wait);
    } while (signal < 0 && errno == EINTR);
    return signal < 0 ? 0 : signal;
}

static void announce(const struct daemon *d)
{
    const char *host = d->config.host;
    struct engine_status status;
    char address[300], prefix[300] = "";

    if (!strcmp(host, "0.0.0.0") || !strcmp(host, "::") || !*host)
        host = "127.0.0.1";
    if (d->config.unix_path)
        snprintf(prefix, sizeof prefix, "--unix-socket %s ", d->config.unix_path);
    if (d->config.unix_path)
        snprintf(address, sizeof address, "http://localhost");
    else
        snprintf(address, sizeof address, strchr(host, ':') ? "http://[%s]:%d" : "http://%s:%d",
                 host, d->port);
    engine_status(d->engine, &status);
    log_event(LOG_LEVEL_INFO, "ready",
              "address=%s%s%s model=%s ranks=%" PRIu32 " isa=%s numerics=%s version=%s", address,
              d->config.unix_path ? " unix=" : "", d->config.unix_path ? d->config.unix_path : "",
              d->config.served_name, status.ranks, status.rank0.isa, status.rank0.numerics,
              MT_VERSION);
    printf("moetunerd is ready at %s\n"
           "curl -s %s%s/v1/completions -d '{\"model\": \"%s\", %s, \"max_tokens\": 32, "
           "\"temperature\": 0}'\n",
           d->config.unix_path ? d->config.unix_path : address, prefix, address,
           d->config.served_name,
           d->tokenizer ? "\"prompt\": \"In the beginning God\"" : "\"prompt\": [1, 2, 3]");
    fflush(stdout);
}

/* Until the job is ready. The signal that ended the wait, 0 when ready, -1 when it cannot become
 * ready. */
static int await_ready(struct daemon *d, const sigset_t *signals)
{
    struct engine_status status;
    enum engine_state state;
    char why[2 * MT_ERR_TEXT];
    int signal;

    do {
        state = engine_wait_ready(d->engine, START_POLL_MS);
        signal = next_signal(signals, 0);
        if (signal)
            return signal;
    } while (state == ENGINE_STARTING);
    if (state == ENGINE_READY)
        return 0;
    engine_status(d->engine, &status);
    log_event(LOG_LEVEL_ERROR, "start_failed", "why=%s", log_quote(why, sizeof why, status.text));
    return -1;
}

/* Until nothing runs any more, or somebody is in a hurry. */
static void drain(struct daemon *d, const sigset_t *signals)
{
    struct engine_status status;

    log_event(LOG_LEVEL_INFO, "drain", "deadline_ms=%" PRId64, d->config.drain_deadline);
    engine_drain(d->engine, d->config.drain_deadline);
    for (;;) {
        engine_status(d->engine, &status);
        if (status.state == ENGINE_STOPPED || next_signal(signals, DRAIN_POLL_MS))
            return;
    }
}

static int live(struct daemon *d, const sigset_t *signals)
{
    int signal = await_ready(d, signals);

    if (!signal) {
        announce(d);
        signal = next_signal(signals, -1);
    }
    if (signal == SIGTERM)
        drain(d, signals);
    if (signal > 0)
        log_event(LOG_LEVEL_INFO, "stop", "signal=%s", signal == SIGTERM ? "TERM" : "INT");
    return signal > 0 ? 0 : 1;
}

/* --- end --- */

static void finish(struct daemon *d)
{
    if (d->engine)
        engine_drain(d->engine, 0);
    engine_free(d->engine); /* every request has ended after this */
    if (d->http)
        http_quiesce(d->http, FLUSH_MS);
    http_free(d->http);
    if (d->listen_fd >= 0)
        close(d->listen_fd);
    if (d->bound_unix)
        unlink(d->config.unix_path);
    if (d->have_plan)
        plan_done(&d->plan);
    chat_free(d->chat);
    tokenizer_free(d->tokenizer);
    metrics_free(d->metrics);
    config_done(&d->config);
}

/* Who starts us may have closed a standard descriptor; a socket must not take its place and receive
 * the log. */
static void hold_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

static int run(struct daemon *d)
{
    struct mt_err err;
    char why[2 * MT_ERR_TEXT];
    sigset_t signals;
    int rc;

    hold_standard_descriptors();
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    log_init("moetunerd", (enum log_level)d->config.log_level);
    if (start(d, &err)) {
        log_event(LOG_LEVEL_ERROR, "start_failed", "why=%s", log_quote(why, sizeof why, err.text));
        rc = 1;
    } else {
        rc = live(d, &signals);
    }
    finish(d);
    return rc;
}

int main(int argc, char **argv)
{
    struct daemon d = {.listen_fd = -1};
    struct mt_err err;

    if (config_read(argc, argv, &d.config, &err)) {
        fprintf(stderr, "moetunerd: %s\nTry moetunerd --help.\n", err.text);
        return 2;
    }
    if (!d.config.help && !d.config.version && !d.config.manual)
        return run(&d);
    if (d.config.help)
        config_help(stdout);
    else if (d.config.manual)
        config_manual(stdout);
    else
        puts("moetunerd " MT_VERSION);
    config_done(&d.config);
    return 0;
}
