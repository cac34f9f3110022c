#include "cli/bench_load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/bench_request.h"

#define PROGRESS_NS 500000000u
#define LONGEST_WAIT_MS 500
#define SPARE_FDS 32

struct bench_load {
    const struct bench_config *config;
    CURLM *multi;
    struct bench_request *requests; /* [concurrency] */
    struct bench_request **idle;    /* [n_idle] of them */
    size_t n_idle;
};

/* One call of bench_load_run. */
struct run {
    struct bench_load *load;
    struct bench_result *result;
    double rate;
    uint64_t from, n, started;
    uint64_t began, due; /* ns; when the next one arrives, in the open loop */
    bool counted;        /* the next one has been seen to wait */
};

static int raise_descriptors(int64_t concurrency, struct mt_err *reterr)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return mt_error(reterr, MT_EIO, "getrlimit: %m");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < (rlim_t)concurrency + SPARE_FDS)
        return mt_error(reterr, MT_ELIMIT,
                        "option concurrency: %lld connections need more file descriptors than the "
                        "%llu allowed (ulimit -Hn)",
                        (long long)concurrency, (unsigned long long)limit.rlim_max);
    return 0;
}

int bench_load_open(const struct bench_config *c, const char *model,
                    const struct bench_prompts *prompts, struct bench_load **ret,
                    struct mt_err *reterr)
{
    size_t n = (size_t)c->concurrency;
    struct bench_load *l;
    int rc = raise_descriptors(c->concurrency, reterr);

    if (rc)
        return rc;
    l = calloc(1, sizeof *l);
    if (l) {
        l->config = c;
        l->multi = curl_multi_init();
        l->requests = calloc(n, sizeof *l->requests);
        l->idle = calloc(n, sizeof *l->idle);
    }
    if (!l || !l->multi || !l->requests || !l->idle)
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    else
        curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, (long)n);
    for (size_t i = 0; !rc && i < n; i++) {
        rc = bench_request_init(&l->requests[i], c, model, prompts, reterr);
        l->idle[l->n_idle++] = &l->requests[i];
    }
    if (rc)
        bench_load_close(l);
    else
        *ret = l;
    return rc;
}

void bench_load_close(struct bench_load *l)
{
    if (!l)
        return;
    for (int64_t i = 0; l->requests && i < l->config->concurrency; i++) {
        if (l->requests[i].easy && l->multi)
            curl_multi_remove_handle(l->multi, l->requests[i].easy);
        bench_request_done(&l->requests[i]);
    }
    curl_multi_cleanup(l->multi);
    free(l->requests);
    free(l->idle);
    free(l);
}

/* --- arrivals --------------------------------------------------------------------------------- */

/* From the arrival of request `number` to the next one, in ns. */
static uint64_t space_after(const struct run *run, uint64_t number)
{
    const struct bench_config *c = run->load->config;
    uint64_t bits = bench_mix(~(uint64_t)c->seed ^ bench_mix(number));
    double u = ((double)(bits >> 11) + 0.5) * 0x1p-53; /* in (0, 1) */

    return (uint64_t)((c->arrivals == BENCH_POISSON ? -log(u) : 1) / run->rate * 1e9);
}

static int start(struct run *run, uint64_t asked, struct mt_err *reterr)
{
    struct bench_load *l = run->load;
    struct bench_request *r = l->idle[l->n_idle - 1];
    int rc = bench_request_begin(r, run->from + run->started, asked, run->result, reterr);
    CURLMcode code;

    if (rc)
        return rc;
    code = curl_multi_add_handle(l->multi, r->easy);
    if (code)
        return mt_error(reterr, MT_EINTERNAL, "curl: %s", curl_multi_strerror(code));
    l->n_idle--;
    run->started++;
    return 0;
}

/* Starts all that can start now. */
static int start_due(struct run *run, struct mt_err *reterr)
{
    struct bench_load *l = run->load;
    int rc = 0;

    while (!rc && run->started < run->n) {
        uint64_t now = bench_now(), asked = run->rate > 0 ? run->due : now;

        if (asked > now)
            break;
        if (!l->n_idle) {
            run->result->delayed += run->rate > 0 && !run->counted;
            run->counted = true;
            break;
        }
        run->due += run->rate > 0 ? space_after(run, run->from + run->started) : 0;
        run->counted = false;
        rc = start(run, asked, reterr);
    }
    return rc;
}

/* How long nothing needs to be done but what the network says. */
static int wait_ms(const struct run *run)
{
    uint64_t now = bench_now();

    if (run->rate <= 0 || run->started == run->n || !run->load->n_idle ||
        run->due > now + LONGEST_WAIT_MS * 1000000u)
        return LONGEST_WAIT_MS;
    return run->due > now ? (int)((run->due - now) / 1000000) : 0;
}

/* --- the loop --------------------------------------------------------------------------------- */

static void reap(struct bench_load *l)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(l->multi, &left))) {
        CURLcode code = message->data.result;
        CURL *easy = message->easy_handle;
        char *private = NULL;
        struct bench_request *r;

        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
        curl_multi_remove_handle(l->multi, easy); /* message is gone with it */
        r = (struct bench_request *)(void *)private;
        bench_request_end(r, code);
        l->idle[l->n_idle++] = r;
    }
}

static void print_progress(const struct run *run, uint64_t now)
{
    const struct bench_result *res = run->result;
    unsigned long long ended = res->ok + res->failed, all = run->n, failed = res->failed;
    double seconds = (double)(now - run->began) * 1e-9;

    fprintf(stderr, "\r%llu of %llu requests, %llu failed, %zu in flight, %.0f tokens/s \033[K",
            ended, all, failed, (size_t)run->load->config->concurrency - run->load->n_idle,
            (double)res->output_tokens / (seconds > 0 ? seconds : 1));
}

static int loop(struct run *run, int stop_fd, bool progress, struct mt_err *reterr)
{
    struct bench_load *l = run->load;
    size_t all = (size_t)l->config->concurrency;
    uint64_t told = run->began;

    for (;;) {
        struct curl_waitfd stop = {.fd = stop_fd, .events = CURL_WAIT_POLLIN};
        int running, rc = start_due(run, reterr);
        CURLMcode code;

        if (rc)
            return rc;
        code = curl_multi_perform(l->multi, &running);
        reap(l);
        if (run->started == run->n && l->n_idle == all)
            return 0;
        if (!code && (run->started == run->n || !l->n_idle || run->rate > 0))
            code = curl_multi_poll(l->multi, &stop, stop_fd >= 0, wait_ms(run), NULL);
        if (code)
            return mt_error(reterr, MT_EINTERNAL, "curl: %s", curl_multi_strerror(code));
        if (stop.revents)
            return mt_error(reterr, MT_ECLOSED, "interrupted");
        if (progress && bench_now() - told > PROGRESS_NS) {
            told = bench_now();
            print_progress(run, told);
        }
    }
}

static double cpu_seconds(void)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u))
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

int bench_load_run(struct bench_load *l, uint64_t from, uint64_t n, double rate, int stop_fd,
                   bool progress, struct bench_result *result, struct mt_err *reterr)
{
    struct run run = {.load = l, .result = result, .rate = rate, .from = from, .n = n};
    double cpu = cpu_seconds();
    int rc;

    run.began = run.due = bench_now();
    rc = loop(&run, stop_fd, progress, reterr);
    result->seconds += (double)(bench_now() - run.began) * 1e-9;
    result->client_cpu += cpu_seconds() - cpu;
    if (progress)
        fputs("\r\033[K", stderr);
    return rc;
}
